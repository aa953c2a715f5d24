"""A hash-grid radiance field that trains in minutes on a CPU: fused kernels there, plain torch on a GPU."""
