"""The bridge to nerfstudio: our Fields as methods of `ns-train`, its data parsers as readers of ours.

Importing this package imports neither nerfstudio nor torch.
"""

from __future__ import annotations
