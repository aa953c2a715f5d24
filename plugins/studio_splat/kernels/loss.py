"""The photometric loss of 3D Gaussian splatting and its gradient, in one pass over the images.

    loss = (1 - lambda) mean |x - y| + lambda (1 - mean SSIM(x, y))

where differences below a limit may count quadratically (smooth L1; Girshick, *Fast R-CNN*, 2015). The SSIM is that
of Wang et al. (*Image Quality Assessment*, 2004): 11x11 Gaussian window of sigma 1.5, C1 = 0.01^2, C2 = 0.03^2, zeros
outside the image, mean over pixels and channels, as Kerbl et al. (2023) train with.

SSIM needs the variances only as a sum, so four blurred images do: x, y, x^2 + y^2 and x y. Its gradient with respect to
x is the blur of three images D: of the derivatives with respect to the blurred x, x^2 + y^2 and x y, the latter two
times 2 x and y. Each thread walks down its rows with the last 11 rows of the inputs and of D in small rings, so nothing
but inputs and result touches main memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache
from studio.kernels.elementary import ONE, TWO, ZERO, f32, lanewise
from studio.kernels.vec import element, load, maximum, minimum, select, splat, store, sum_lanes

from .geometry import aligned_scratch
from .layout import aligned_zeros, check_array

Padding = Literal["same", "valid"]

WINDOW = 11
_REACH = WINDOW // 2
_PAD = 16  # zeros left and right of a row buffer; at least _REACH, and a whole vector
# Images are held as x - 1/2, zeros outside them as -1/2: variances do not change, and as a difference of squares they
# lose four times fewer digits in white areas.
_SHIFT = f32(0.5)
_LEAST_SMOOTH = f32(1e-30)  # of which the inverse times a difference is still finite
_C1, _C2 = f32(0.01**2), f32(0.03**2)

_gauss = [math.exp(-((i - _REACH) ** 2) / (2 * 1.5**2)) for i in range(_REACH + 1)]
_total = 2 * sum(_gauss[:_REACH]) + _gauss[_REACH]
_K5, _K4, _K3, _K2, _K1, _K0 = (f32(g / _total) for g in _gauss)  # named by distance from the centre


@dataclass(frozen=True)
class PhotometricLoss:
    """What `photometric_loss` found.

    Attributes:
        loss: (1 - ssim_weight) l1 + ssim_weight (1 - ssim).
        l1: Mean absolute difference; of differences d below `smooth_l1` d^2 / (2 smooth_l1), of others |d| less half of
            it.
        ssim: Mean structural similarity, in [-1, 1].
    """

    loss: float
    l1: float
    ssim: float


@lanewise
def _blur_row(buffer: np.ndarray, i: int) -> Any:
    """Horizontal blur of a padded row buffer at its elements i, ..., i + 15."""
    return (
        _K0 * load(buffer, i)
        + _K1 * (load(buffer, i - 1) + load(buffer, i + 1))
        + _K2 * (load(buffer, i - 2) + load(buffer, i + 2))
        + _K3 * (load(buffer, i - 3) + load(buffer, i + 3))
        + _K4 * (load(buffer, i - 4) + load(buffer, i + 4))
        + _K5 * (load(buffer, i - 5) + load(buffer, i + 5))
    )


@lanewise
def _pair(ring: np.ndarray, above: int, below: int, other: int) -> Any:
    """Sums over two rows of x, y, x^2 + y^2 and x y; `other` is the distance from x to y in the ring."""
    xa, xb, ya, yb = load(ring, above), load(ring, below), load(ring, above + other), load(ring, below + other)
    return xa + xb, ya + yb, (xa * xa + ya * ya) + (xb * xb + yb * yb), xa * ya + xb * yb


@lanewise
def _fill_row(
    image: np.ndarray, start: int, width: int, mask: np.ndarray, mask_start: int, ring: np.ndarray, at: int
) -> None:
    """Copy a row of the image to the ring, as 0 where the mask is not positive; lanes past the width stay."""
    whole = width - width % 16
    for i in range(0, whole, 16):
        store(ring, at + i, select(load(mask, mask_start + i) > ZERO, load(image, start + i), ZERO) - _SHIFT)
    for i in range(whole, width):
        ring[at + i] = (element(image, start + i) if element(mask, mask_start + i) > ZERO else ZERO) - _SHIFT


@lanewise
def _fill(buffer: np.ndarray, at: int, size: int, value: f32) -> None:
    for i in range(0, size, 16):
        store(buffer, at + i, splat(value))


@lanewise
def _similarity_row(
    ring: np.ndarray,
    slots: np.ndarray,
    pitch: int,
    row: np.ndarray,
    weight: np.ndarray,
    weight_start: int,
    scale: f32,
    out: np.ndarray,
    out_at: int,
) -> f32:
    """One row of SSIM: its derivatives times `scale` and the weights into rows of `out`; returns its weighted sum."""
    other, step = WINDOW * pitch, pitch + 2 * _PAD
    for i in range(0, pitch, 16):
        xa, ya = load(ring, slots[5] + i), load(ring, slots[5] + other + i)
        x, y, s, p = _K0 * xa, _K0 * ya, _K0 * (xa * xa + ya * ya), _K0 * (xa * ya)
        a, b, c, d = _pair(ring, slots[4] + i, slots[6] + i, other)
        x, y, s, p = x + _K1 * a, y + _K1 * b, s + _K1 * c, p + _K1 * d
        a, b, c, d = _pair(ring, slots[3] + i, slots[7] + i, other)
        x, y, s, p = x + _K2 * a, y + _K2 * b, s + _K2 * c, p + _K2 * d
        a, b, c, d = _pair(ring, slots[2] + i, slots[8] + i, other)
        x, y, s, p = x + _K3 * a, y + _K3 * b, s + _K3 * c, p + _K3 * d
        a, b, c, d = _pair(ring, slots[1] + i, slots[9] + i, other)
        x, y, s, p = x + _K4 * a, y + _K4 * b, s + _K4 * c, p + _K4 * d
        a, b, c, d = _pair(ring, slots[0] + i, slots[10] + i, other)
        x, y, s, p = x + _K5 * a, y + _K5 * b, s + _K5 * c, p + _K5 * d
        store(row, _PAD + i, x)
        store(row, step + _PAD + i, y)
        store(row, 2 * step + _PAD + i, s)
        store(row, 3 * step + _PAD + i, p)
    total = splat(ZERO)
    for i in range(0, pitch, 16):
        x, y = _blur_row(row, _PAD + i), _blur_row(row, step + _PAD + i)
        s, p = _blur_row(row, 2 * step + _PAD + i), _blur_row(row, 3 * step + _PAD + i)
        w = load(weight, weight_start + i)
        mx, my = x + _SHIFT, y + _SHIFT
        a1, a2 = TWO * mx * my + _C1, TWO * (p - x * y) + _C2
        b1, b2 = (mx * mx + my * my) + _C1, (s - (x * x + y * y)) + _C2
        inverse = ONE / (b1 * b2)
        similarity = a1 * a2 * inverse
        total = total + w * similarity
        k = scale * w
        # 1 / b2 = b1 inverse and 1 / b1 = b2 inverse.
        store(out, out_at + i, TWO * k * inverse * ((my * a2 - y * a1) + similarity * (x * b1 - mx * b2)))
        store(out, out_at + WINDOW * pitch + i, -k * similarity * b1 * inverse)
        store(out, out_at + 2 * WINDOW * pitch + i, TWO * k * a1 * inverse)
    return sum_lanes(total)


@lanewise
def _blur_column(ring: np.ndarray, slots: np.ndarray, i: int) -> Any:
    return (
        _K0 * load(ring, slots[5] + i)
        + _K1 * (load(ring, slots[4] + i) + load(ring, slots[6] + i))
        + _K2 * (load(ring, slots[3] + i) + load(ring, slots[7] + i))
        + _K3 * (load(ring, slots[2] + i) + load(ring, slots[8] + i))
        + _K4 * (load(ring, slots[1] + i) + load(ring, slots[9] + i))
        + _K5 * (load(ring, slots[0] + i) + load(ring, slots[10] + i))
    )


@lanewise
def _gradient_row(
    ring: np.ndarray,
    slots: np.ndarray,
    pitch: int,
    row: np.ndarray,
    images: np.ndarray,
    image_at: int,
    weight: np.ndarray,
    weight_start: int,
    scale: f32,
    smooth: f32,
    gradient: np.ndarray,
    start: int,
    width: int,
) -> f32:
    """One row of the gradient, from the ring of D; returns the row's weighted sum of |x - y|, smooth near zero."""
    half, inverse = smooth * f32(0.5), ONE / max(smooth, _LEAST_SMOOTH)
    step = pitch + 2 * _PAD
    for i in range(0, pitch, 16):
        for k in range(3):
            store(row, k * step + _PAD + i, _blur_column(ring, slots, k * WINDOW * pitch + i))
    total = splat(ZERO)
    for i in range(0, pitch, 16):
        x, y = load(images, image_at + i), load(images, image_at + WINDOW * pitch + i)
        w = load(weight, weight_start + i)
        difference = x - y
        slope = minimum(maximum(difference * inverse, -ONE), ONE)
        total = total + w * slope * (difference - half * slope)
        value = (
            _blur_row(row, _PAD + i)
            + TWO * x * _blur_row(row, step + _PAD + i)
            + y * _blur_row(row, 2 * step + _PAD + i)
            + scale * w * slope
        )
        value = select(w > ZERO, value, ZERO)
        if i + 16 <= width:
            store(gradient, start + i, value)
        else:
            store(row, 0, value)
            for j in range(width - i):
                gradient[start + i + j] = row[j]
            store(row, 0, splat(ZERO))
    return sum_lanes(total)


@lanewise
def _find_slots(slots: np.ndarray, centre: int, pitch: int) -> None:
    """Where the rows centre - 5, ..., centre + 5 are in a ring."""
    for j in range(WINDOW):
        slots[j] = ((centre + j + WINDOW - _REACH) % WINDOW) * pitch


@lanewise
def _loss_share(
    first: int,
    end: int,
    channels: int,
    height: int,
    width: int,
    image: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray,
    mask_pitch: int,
    window: np.ndarray,
    window_pitch: int,
    l1_scale: f32,
    smooth: f32,
    ssim_scale: f32,
    gradient: np.ndarray,
    sums: np.ndarray,
) -> None:
    pitch = -(-width // 16) * 16
    inputs = aligned_scratch(2 * WINDOW * pitch)
    derivatives = aligned_scratch(3 * WINDOW * pitch)
    step = pitch + 2 * _PAD
    sums_row, row = aligned_scratch(4 * step), aligned_scratch(3 * step)
    slots = np.empty(WINDOW, np.int64)
    _fill(sums_row, 0, 2 * step, -_SHIFT)
    _fill(sums_row, 2 * step, step, TWO * _SHIFT * _SHIFT)
    _fill(sums_row, 3 * step, step, _SHIFT * _SHIFT)
    _fill(row, 0, 3 * step, ZERO)
    for channel in range(channels):
        plane = channel * height * width
        _fill(inputs, 0, 2 * WINDOW * pitch, -_SHIFT)
        for i in range(first - 2 * _REACH, end + 2 * _REACH):
            # Rows i of the inputs, i - 5 of D and i - 10 of the gradient; + 2 * WINDOW keeps the remainders positive.
            slot = ((i + 2 * WINDOW) % WINDOW) * pitch
            if 0 <= i < height:
                _fill_row(image, plane + i * width, width, mask, i * mask_pitch, inputs, slot)
                _fill_row(target, plane + i * width, width, mask, i * mask_pitch, inputs, slot + WINDOW * pitch)
            else:
                _fill(inputs, slot, pitch, -_SHIFT)
                _fill(inputs, slot + WINDOW * pitch, pitch, -_SHIFT)
            d = i - _REACH
            if d < first - _REACH:
                continue
            slot = ((d + 2 * WINDOW) % WINDOW) * pitch
            if 0 <= d < height:
                _find_slots(slots, d + WINDOW, pitch)
                total = _similarity_row(
                    inputs, slots, pitch, sums_row, window, d * window_pitch, ssim_scale, derivatives, slot
                )
                if first <= d < end:
                    sums[1, channel, d] = total
            else:
                for k in range(3):
                    _fill(derivatives, slot + k * WINDOW * pitch, pitch, ZERO)
            g = d - _REACH
            if g < first:
                continue
            _find_slots(slots, g + WINDOW, pitch)
            sums[0, channel, g] = _gradient_row(
                derivatives,
                slots,
                pitch,
                row,
                inputs,
                (g % WINDOW) * pitch,
                mask,
                g * mask_pitch,
                l1_scale,
                smooth,
                gradient,
                plane + g * width,
                width,
            )


@cache.kernel(
    "void(i8, f4[:,:,::1], f4[:,:,::1], f4[:,::1], f4[:,::1], f4, f4, f4, f4[:,:,::1], f8[:,:,::1])", parallel=True
)
def _loss(
    shares: int,
    image: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray,
    window: np.ndarray,
    l1_scale: f32,
    smooth: f32,
    ssim_scale: f32,
    gradient: np.ndarray,
    sums: np.ndarray,
) -> None:
    channels, height, width = image.shape
    flat = gradient.reshape(-1)
    for share in numba.prange(shares):
        _loss_share(
            share * height // shares,
            (share + 1) * height // shares,
            channels,
            height,
            width,
            image,
            target,
            mask,
            mask.shape[1] if mask.shape[0] > 1 else 0,
            window,
            window.shape[1] if window.shape[0] > 1 else 0,
            l1_scale,
            smooth,
            ssim_scale,
            flat,
            sums,
        )


def photometric_loss(
    image: NDArray[np.float32],
    target: NDArray[np.float32],
    gradient: NDArray[np.float32],
    *,
    ssim_weight: float = 0.2,
    smooth_l1: float = 0.0,
    mask: NDArray | None = None,
    padding: Padding = "same",
) -> PhotometricLoss:
    """L1 and SSIM between an image and its target, and the loss's gradient with respect to the image.

    Args:
        image: (C, H, W), usually in [0, 1].
        target: (C, H, W).
        gradient: (C, H, W), written.
        ssim_weight: lambda, 0 to 1.
        smooth_l1: Differences below it count quadratically, at least 0; torch's ``smooth_l1_loss`` calls it beta.
        mask: (H, W) weights of the pixels, not negative, any real dtype; both means are weighted by it. Pixels of
            weight 0 contribute nothing: they count as zero in both images, as everything outside the image does, so
            what is in them has no influence, and their gradient is 0. Only the ratios of weights matter.
        padding: "same": SSIM of every pixel, with zeros outside the image. "valid": only of those whose window lies
            inside it.

    Raises:
        ValueError: A shape, dtype or layout in memory is not as above, a weight or limit is negative or NaN, no pixel
            counts, or with "valid" the image is smaller than the window.
    """
    if not isinstance(image, np.ndarray) or image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"image must have shape (C, H, W), got {getattr(image, 'shape', type(image))}")
    check_array("image", image, image.shape)
    check_array("target", target, image.shape)
    check_array("gradient", gradient, image.shape)
    if not 0.0 <= ssim_weight <= 1.0:
        raise ValueError(f"ssim_weight must be in [0, 1], got {ssim_weight}")
    if not 0.0 <= smooth_l1 < math.inf:
        raise ValueError(f"smooth_l1 must be finite and not negative, got {smooth_l1}")
    channels, height, width = image.shape
    pitch = -(-width // 16) * 16
    weights = aligned_zeros((1 if mask is None else height, pitch))
    if mask is None:
        weights[:, :width] = 1.0
        total = float(height * width)
    else:
        if mask.shape != (height, width):
            raise ValueError(f"mask must have shape {(height, width)}, got {mask.shape}")
        weights[:, :width] = mask
        total = float(weights.sum(dtype=np.float64))
        if not (np.isfinite(total) and weights.min() >= 0.0):
            raise ValueError("mask must hold finite weights that are not negative")
    window, window_total = weights, total
    if padding == "valid":
        window = aligned_zeros((height, pitch))
        inside = (slice(_REACH, height - _REACH), slice(_REACH, width - _REACH))
        window[inside] = np.broadcast_to(weights, (height, pitch))[inside]
        window_total = float(window.sum(dtype=np.float64))
    elif padding != "same":
        raise ValueError(f"padding must be 'same' or 'valid', got {padding!r}")
    if total == 0.0 or window_total == 0.0:
        raise ValueError("no pixel counts: the mask is zero, or with padding 'valid' the image smaller than the window")
    sums = np.empty((2, channels, height), np.float64)
    l1_scale = (1.0 - ssim_weight) / (channels * total)
    ssim_scale = -ssim_weight / (channels * window_total)
    _loss(cache.get_threads(), image, target, weights, window, l1_scale, smooth_l1, ssim_scale, gradient, sums)
    l1, ssim = float(sums[0].sum()) / (channels * total), float(sums[1].sum()) / (channels * window_total)
    return PhotometricLoss((1.0 - ssim_weight) * l1 + ssim_weight * (1.0 - ssim), l1, ssim)
