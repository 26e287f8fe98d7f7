"""The paper: one round of B²-DiffuRL, for any policy and any reward."""
