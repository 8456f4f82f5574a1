"""Train, compress and run convolutional networks in the frequency domain."""

__version__ = "0.1.0"
