"""Denoising as a chain of Gaussian actions. Knows nothing of rewards, prompts or networks."""
