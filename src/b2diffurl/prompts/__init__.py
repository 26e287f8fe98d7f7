"""Prompt lists."""
