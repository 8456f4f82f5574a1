"""Multiply-accumulates, memory and time of layers and models, and tables to show them."""
