"""How the embedded model was trained: one resumable command, `python -m tools.emoji_model`."""
