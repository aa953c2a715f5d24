"""Data sets of points, pictures and text for the generators."""

from studio.datasets.dataset import Dataset, is_generated, load_dataset
from studio.datasets.text import TextDataset

__all__ = ["Dataset", "TextDataset", "is_generated", "load_dataset"]
