"""Layers that a user puts in a network."""
