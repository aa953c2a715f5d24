"""Camera poses from plain photos or a video: structure from motion by COLMAP, as a scene that trains."""

from __future__ import annotations

from studio.reconstruction.alignment import align_similarity
from studio.reconstruction.process import ProcessOptions, process
from studio.reconstruction.report import PhotoResult, ProcessReport

__all__ = ["PhotoResult", "ProcessOptions", "ProcessReport", "align_similarity", "process"]
