"""Evaluating a policy's images: alignment and diversity."""
