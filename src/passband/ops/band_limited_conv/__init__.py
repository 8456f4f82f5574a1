"""The band-limited convolution; see README.md for the algorithms and their derivation."""
