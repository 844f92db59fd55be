"""Kernels that Triton compiles for a GPU."""
