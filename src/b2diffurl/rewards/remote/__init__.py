"""Rewards over HTTP: client and server."""
