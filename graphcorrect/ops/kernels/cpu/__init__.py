"""Loops that numba compiles for a CPU."""
