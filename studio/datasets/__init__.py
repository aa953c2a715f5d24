"""Data sets of points, pictures and text for the generators."""

from studio.datasets.dataset import Dataset, load_dataset

__all__ = ["Dataset", "load_dataset"]
