"""Training of the embedded model: one resumable command, `python -m tools.emoji_model`. Not part of the wheel."""
