"""CPU kernels of the splatting plugin: Numba, NumPy arrays in and out, no torch.

``cache`` decides where compiled code lives and how many threads run; ``vec`` is the 16-lane vector layer the kernels
are written in; ``binning``, ``raster_forward`` and ``raster_backward`` are the tile rasteriser.
"""
