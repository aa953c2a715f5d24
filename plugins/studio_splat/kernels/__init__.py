"""CPU kernels of the splatting plugin: Numba, NumPy arrays in and out, no torch.

``projection`` and ``sh`` prepare the Gaussians of a view; ``binning``, ``raster_forward`` and ``raster_backward`` are
the tile rasteriser; ``loss`` compares pictures. All are written in the vector layer of `studio.kernels`.
"""
