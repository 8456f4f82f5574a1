"""Blocks around a convolution that keep little for the backward pass; see README.md."""
