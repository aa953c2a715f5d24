"""CPU kernels of the ray-marching engine: NumPy arrays in and out, no torch. Kernels of plugins may build on them."""
