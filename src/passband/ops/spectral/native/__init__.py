"""Compiled kernels that pack spectra as they come from the transforms, and unpack them."""
