"""How good a render is: PSNR, SSIM, LPIPS, and the report that says how they were measured."""

from studio.metrics.evaluate import EvaluationReport, PhotoScore, as_saved, score_photo
from studio.metrics.lpips import Lpips, find_lpips, load_lpips
from studio.metrics.photo_metric import PhotoMetric
from studio.metrics.protocol import Protocol
from studio.metrics.psnr import psnr
from studio.metrics.ssim import ssim, ssim_map

__all__ = [
    "EvaluationReport",
    "Lpips",
    "PhotoMetric",
    "PhotoScore",
    "Protocol",
    "as_saved",
    "find_lpips",
    "load_lpips",
    "psnr",
    "score_photo",
    "ssim",
    "ssim_map",
]
