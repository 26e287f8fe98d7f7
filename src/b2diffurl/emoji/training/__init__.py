"""How the embedded model was trained: one resumable command, `python -m b2diffurl.emoji.training`."""
