"""3D Gaussian splatting: fast kernels on a CPU, gsplat on a GPU, plain torch as the reference."""
