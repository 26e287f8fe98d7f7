"""Runs: settings, recipes, resolution of names, directory."""
