"""Denoising as a chain of Gaussian actions. Independent of rewards, prompts and networks."""
