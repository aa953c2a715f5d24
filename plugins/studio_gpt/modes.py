"""Computing with a module while it may be in training: dropout off, and the mode put back."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """`module` in evaluation mode."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def note(message: str) -> None:
    """Tell the user of something that works, but perhaps not as meant."""
    warnings.warn(message, UserWarning, stacklevel=3)
