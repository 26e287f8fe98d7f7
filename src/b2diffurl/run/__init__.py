"""A run: its settings, its recipes, its directory."""
