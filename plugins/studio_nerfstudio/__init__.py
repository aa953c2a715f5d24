"""The bridge to nerfstudio (tested with 1.1.5): our Fields as methods of its own, its data parsers as readers of ours.

    ns-train studio-splat --data FOLDER
    ns-train studio-ngp --data FOLDER --pipeline.model.field.samples 32768 colmap
    studio train splat FOLDER --format nerfstudio:colmap

Both packages must be installed in one environment. Importing this package imports neither nerfstudio nor torch.
"""

from __future__ import annotations
