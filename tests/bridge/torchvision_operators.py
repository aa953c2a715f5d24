"""Importing torchvision beside a torch without CUDA where no CPU build of torchvision is to be had.

Such a torchvision lacks its compiled operators, and importing it fails at the first one that it describes to torch,
``torchvision::nms`` (newer ones also at ``qnms``). What is tested here calls none of them, so stating the operator's
schema is enough. Nothing is done where torchvision can be imported as it is.
"""

from __future__ import annotations

import re
import sys

import torch

_LIBRARY: list[torch.library.Library] = []
"""Keeps the schema registered."""


_MISSING = re.compile(r"operator torchvision::(q?nms) does not exist")


def register_missing() -> None:
    """Make torchvision importable; any other failure to import it is raised as it is."""
    while True:
        try:
            import torchvision  # noqa: F401
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            if missing is None or len(_LIBRARY) == 2:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{missing[1]}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _LIBRARY.append(library)
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
        else:
            return
