"""The products of matmul.py by kernels in C, for maps of one and two axes on a CPU."""
