"""Importing torchvision beside a torch without CUDA where no CPU build of torchvision is to be had.

Such a torchvision lacks its compiled operators, and importing it fails at the first one that it describes to torch,
``torchvision::nms``. nerfstudio calls none of them, so stating the operator's schema is enough for everything tested
here. Nothing is done where torchvision can be imported as it is.
"""

from __future__ import annotations

import sys

import torch

_LIBRARY: list[torch.library.Library] = []
"""Keeps the schema registered."""


def register_missing() -> None:
    """Make torchvision importable; any other failure to import it is raised as it is."""
    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARY.append(library)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision  # noqa: F401
