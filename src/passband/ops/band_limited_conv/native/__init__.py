"""The products of matmul.py in C, for float32 maps of one and two axes on a CPU."""
