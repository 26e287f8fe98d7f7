"""Prompt lists, the paper's and the user's."""
