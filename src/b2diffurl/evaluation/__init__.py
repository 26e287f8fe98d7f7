"""Judging a policy's pictures: alignment and diversity."""
