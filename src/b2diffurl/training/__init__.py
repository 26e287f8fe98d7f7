"""The training loop around the rounds."""
