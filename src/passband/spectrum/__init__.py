"""Mathematics on tensors: bands of frequencies, truncated transforms, energies."""
