"""Which kernels training and drawing call, so that they can be compiled at once; longest first."""

from __future__ import annotations

from studio.kernels.cache import Kernel

from . import binning, depth_order, loss, photo, projection, projection_backward, shared_rows, tile_spans
from .raster_backward import _backward_kernel
from .raster_forward import _forward_kernel


def training_kernels(*, absgrad: bool) -> list[Kernel]:
    """Kernels of a training step, and of previews."""
    gradients = [_backward_kernel(3, True)] if absgrad else []
    return [
        projection_backward._backward,
        projection._project,
        loss._loss,
        *gradients,
        _backward_kernel(3, False),
        *_lists(),
        _forward_kernel(3, False),
        shared_rows.prepare_rows,
        photo._squared_error,
        photo._compose,
    ]


def drawing_kernels() -> list[Kernel]:
    """Kernels of a picture without depth."""
    return [projection._project, *_lists(), _forward_kernel(3, False)]


def _lists() -> list[Kernel]:
    return [depth_order.order_splats, tile_spans.measure_spans, binning._fill]
