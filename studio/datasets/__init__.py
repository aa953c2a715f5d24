"""Data sets of points, pictures and text for the generators."""

from studio.datasets.dataset import Dataset, describe_dataset, holds_samples, is_generated, load_dataset
from studio.datasets.text import TextDataset

__all__ = ["Dataset", "TextDataset", "describe_dataset", "holds_samples", "is_generated", "load_dataset"]
