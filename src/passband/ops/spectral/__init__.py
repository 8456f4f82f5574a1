"""Layers on spectra: product over channels, threshold, activation, pooling, and what is kept."""
