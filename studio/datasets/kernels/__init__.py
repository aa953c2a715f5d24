"""Compiled kernels of the data sets."""
