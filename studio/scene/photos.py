"""Photos of a scene: decoded when asked for, at the wanted size, kept in a cache of bounded size."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from studio.cameras import Cameras
from studio.cameras.undistort import UndistortionMap, undistortion_map
from studio.errors import StudioError
from studio.scene.decode import decode_mask, decode_photo
from studio.scene.resample import downscaled_size, resize_area, resize_mask
from studio.scene.scene import Frame

DEFAULT_CACHE_BYTES = 2 << 30
"""2 GiB: about 1,100 photos of 800x800 with alpha."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo with its camera at the same size."""

    frame: Frame
    image: UInt8[Tensor, "h w c"]
    """sRGB as stored, c = 3, or 4 with straight alpha."""
    mask: Bool[Tensor, "h w"] | None
    """True where the photo counts in loss and metrics; None: everywhere."""
    camera: Cameras
    """Batch shape ()."""

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` in pixels."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def alpha(self) -> Float[Tensor, "h w"] | None:
        """Opacity in [0, 1]; None for a photo without an alpha channel, which is opaque."""
        return self.image[..., 3].float() / 255 if self.image.shape[-1] == 4 else None

    @property
    def rgb(self) -> Float[Tensor, "h w 3"]:
        """Colours in [0, 1] as stored, not composited."""
        return self.image[..., :3].float() / 255

    def composited(self, background: Float[Tensor, "*hw 3"] | Sequence[float]) -> Float[Tensor, "h w 3"]:
        """The photo over a background.

        Args:
            background: sRGB in [0, 1]: one colour, or one a pixel (h, w, 3).

        Returns:
            float32 in [0, 1] on the CPU: ``alpha * rgb + (1 - alpha) * background``.
        """
        alpha = self.alpha
        if alpha is None:
            return self.rgb
        behind = torch.as_tensor(background, dtype=torch.float32, device=self.image.device)
        if behind.shape not in ((3,), (*alpha.shape, 3)):
            raise ValueError(f"background must have shape (3,) or {(*alpha.shape, 3)}, got {tuple(behind.shape)}")
        return torch.lerp(behind.expand(*alpha.shape, 3), self.rgb, alpha[..., None])

    def downscaled(self, factor: float) -> Photo:
        """This photo with both sides divided by `factor` (at least 1), area-filtered."""
        if factor < 1:
            raise ValueError(f"factor must be at least 1, got {factor}")
        size = downscaled_size(self.size, factor)
        return replace(
            self,
            image=resize_area(self.image, size),
            mask=None if self.mask is None else resize_mask(self.mask, size),
            camera=self.camera.rescale(size),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels and the mask."""
        return self.image.numel() + (0 if self.mask is None else self.mask.numel())


class PhotoStore(Sequence[Photo]):
    """The photos of some frames, by index; the most recently used stay decoded up to a number of bytes.

    A photo is decoded, brought to size by area averaging, and then, if asked, undistorted to a pinhole camera of the
    same focal length (pixels that the photo does not show are masked). Results do not depend on what the cache holds
    or on `prefetch`. Use from several threads is safe.

    Args:
        frames: What to show; often one split of a scene.
        downscale: Both sides of each photo are divided by it and rounded to whole pixels; at least 1.
        cache_bytes: Upper bound of the memory for decoded photos and undistortion maps. A photo larger than that is
            decoded each time.
        undistort: Whether photos of distorted cameras become pinhole photos.
        workers: Threads that serve `prefetch`; each needs memory for one photo at full size while it works.

    Raises:
        StudioError: `downscale` is below 1, or a camera cannot be undistorted.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        downscale: float = 1,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        undistort: bool = False,
        workers: int = 2,
    ) -> None:
        if not downscale >= 1:
            raise StudioError(
                f"downscale must be at least 1, got {downscale:g}.", fix="1 keeps the size of the photos."
            )
        if cache_bytes < 0 or workers < 1:
            raise ValueError(f"cache_bytes must be >= 0 and workers >= 1, got {cache_bytes} and {workers}")
        self.frames = tuple(frames)
        self.downscale = downscale
        self.undistort = undistort
        self._resized = [f.camera.rescale(downscaled_size(f.camera.size, downscale)) for f in self.frames]
        self._cache = _ByteCache(cache_bytes)
        self.shifts = self._count_shifts()
        """In how many ways `get` can lay the pixels of a reduced photo over those of the whole one; at least 1."""
        self._workers = workers
        self._pool: ThreadPoolExecutor | None = None
        self._pending: dict[tuple[int, bool], Future[tuple[Photo, ...]]] = {}
        self._lock = threading.Lock()
        for frame in self.frames if undistort else ():
            if frame.camera.model in ("equirectangular", "orthographic"):
                raise StudioError(
                    f"{frame.image_path}: a photo of model {frame.camera.model} cannot be undistorted to pinhole.",
                    fix="Use a plugin that renders this camera, or leave such photos out.",
                )

    def _count_shifts(self) -> int:
        # With a whole number f there are f offsets along each side. Looked at in all f² ways a photo shows what it
        # shows at full size, in pictures of the reduced size; without room for that each look would be a decode.
        factor = int(self.downscale)
        if factor != self.downscale or self.undistort:
            return 1
        sizes = [frame.camera.size for frame in self.frames]
        affordable = sum(width * height * 5 for width, height in sizes) <= self._cache.limit
        return factor**2 if affordable and all(min(size) >= 2 * factor for size in sizes) else 1

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Photo]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Photo:  # type: ignore[override]
        """The photo of frame `index`.

        Raises:
            StudioError: The photo or its mask cannot be read or has another size than when the scene was loaded.
        """
        return self._decoded(range(len(self))[index], shifted=False)[0]

    def _decoded(self, index: int, shifted: bool) -> tuple[Photo, ...]:
        key = (index, shifted)
        # In this order: a background decode puts its photo into the cache before it stops being pending.
        with self._lock:
            pending = self._pending.get(key)
        if pending is not None:
            with contextlib.suppress(CancelledError):
                return pending.result()
        photos = self._cache.get(key)
        return photos if isinstance(photos, tuple) else self._load_and_keep(key)

    def get(self, index: int, downscale: float = 1, shift: int | None = None) -> Photo:
        """As ``self[index]``, reduced once more by `downscale`; reduced photos are kept in the same bounded cache.

        Args:
            index: Position of the frame.
            downscale: Both sides are divided by it once more; at least 1.
            shift: Which of the `shifts` ways of reducing the photo to take; its camera is shifted alike. Way 0 shows
                the same as None, but keeps all ways decoded for later.
        """
        index = range(len(self))[index]
        ways = self.shifts if shift is not None else 1
        shifted, way = ways > 1, range(ways)[shift or 0]
        if downscale == 1:
            return self._decoded(index, shifted)[way]
        photo = self._cache.get((index, downscale, way))
        if not isinstance(photo, Photo):
            photo = self._decoded(index, shifted)[way].downscaled(downscale)
            self._cache.put((index, downscale, way), photo, photo.nbytes)
        return photo

    @property
    def capacity(self) -> int:
        """About how many photos the cache holds at once; at least 1."""
        pixels = max((camera.size[0] * camera.size[1] for camera in self._resized), default=1)
        return max(1, self._cache.limit // (pixels * 5))

    def camera(self, index: int) -> Cameras:
        """The camera of `self[index]`, without decoding the photo."""
        camera = self._resized[index]
        if self.undistort and camera.model != "pinhole":
            return replace(camera, model="pinhole", distortion=None)
        return camera

    @property
    def cached_bytes(self) -> int:
        """Memory that decoded photos and undistortion maps take now; never above the bound."""
        return self._cache.used

    def prefetch(self, indices: Iterable[int], shifted: bool = False) -> None:
        """Decode the photos that will be asked for next, in this order, in the background.

        Only as many are taken as the cache holds. Returns at once; errors are raised when the photo is asked for.

        Args:
            indices: Positions of the frames.
            shifted: Whether `get` will be asked with a shift.
        """
        shifted = shifted and self.shifts > 1
        budget = self._cache.limit
        for index in indices:
            key = (range(len(self))[index], shifted)
            width, height = self.frames[index].camera.size if shifted else self._resized[index].size
            budget -= width * height * 5
            if budget < 0:
                return
            with self._lock:
                if key in self._pending or self._cache.get(key) is not None:
                    continue
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="photos")
                self._pending[key] = self._pool.submit(self._load_in_background, key)

    def close(self) -> None:
        """Stop background decoding and forget all decoded photos; the store can still be used."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._pending.clear()
        self._cache.clear()

    def _load_in_background(self, key: tuple[int, bool]) -> tuple[Photo, ...]:
        try:
            return self._load_and_keep(key)
        finally:
            with self._lock:
                self._pending.pop(key, None)

    def _load_and_keep(self, key: tuple[int, bool]) -> tuple[Photo, ...]:
        photos = self._load_shifted(key[0]) if key[1] else (self._load(key[0]),)
        self._cache.put(key, photos, sum(photo.nbytes for photo in photos))
        return photos

    def _pixels(self, index: int) -> UInt8[Tensor, "h w c"]:
        """The photo as it is stored."""
        frame = self.frames[index]
        pixels = torch.from_numpy(decode_photo(frame.image_path))
        found, expected = (pixels.shape[1], pixels.shape[0]), frame.camera.size
        if found != expected:
            raise StudioError(
                f"{frame.image_path}: the photo is {found[0]}x{found[1]}, but was {expected[0]}x{expected[1]} when the "
                "scene was loaded.",
                fix="Load the scene again.",
            )
        return pixels

    def _load_shifted(self, index: int) -> tuple[Photo, ...]:
        """The photo reduced in all ways, by rows of offsets."""
        frame, factor = self.frames[index], int(self.downscale)
        width, height = frame.camera.size
        pixels, mask = self._pixels(index), _load_mask(frame, (width, height))
        photos = []
        for top, left in itertools.product(range(factor), repeat=2):
            if top == left == 0:
                size = self._resized[index].size
                window = (0, 0, width, height)
            else:
                # Whole pixels only: what remains at the right and the bottom is seen with other offsets.
                size = ((width - left) // factor, (height - top) // factor)
                window = (left, top, factor * size[0], factor * size[1])
            rows, columns = slice(top, top + window[3]), slice(left, left + window[2])
            photos.append(
                Photo(
                    frame,
                    resize_area(pixels[rows, columns], size),
                    None if mask is None else resize_mask(mask[rows, columns], size),
                    frame.camera.crop(*window).rescale(size),
                )
            )
        return tuple(photos)

    def _load(self, index: int) -> Photo:
        frame, camera = self.frames[index], self._resized[index]
        image = resize_area(self._pixels(index), camera.size)
        mask = _load_mask(frame, camera.size)
        if self.undistort and camera.model != "pinhole":
            plan = self._undistortion(camera)
            image = plan.apply(image)
            mask = plan.valid if mask is None else _undistort_mask(mask, plan)
        return Photo(frame, image, mask, self.camera(index))

    def _undistortion(self, camera: Cameras) -> UndistortionMap:
        lens = camera.distortion.tolist() if camera.distortion is not None else []
        numbers = [float(v) for v in (camera.fx, camera.fy, camera.cx, camera.cy)]
        key = (camera.model, camera.size, *numbers, *lens)
        plan = self._cache.get(key)
        if not isinstance(plan, UndistortionMap):
            plan = undistortion_map(camera)
            self._cache.put(key, plan, plan.source_pixels.nbytes + plan.valid.nbytes)
        return plan


def _load_mask(frame: Frame, size: tuple[int, int]) -> Bool[Tensor, "h w"] | None:
    if frame.mask_path is None:
        return None
    mask = torch.from_numpy(decode_mask(frame.mask_path))
    height, width = mask.shape
    photo = frame.camera.size
    # Masks may be stored at another size than the photos, but must show the same view.
    if abs(width * photo[1] / (height * photo[0]) - 1) > 1.5 / min(width, height) + 1e-3:
        raise StudioError(
            f"{frame.mask_path}: the mask is {width}x{height}, but its photo {photo[0]}x{photo[1]}.",
            fix="Make the mask from the photo, at its size or smaller.",
        )
    return resize_mask(mask, size)


def _undistort_mask(mask: Bool[Tensor, "h w"], plan: UndistortionMap) -> Bool[Tensor, "h w"]:
    """True where the pixel is shown and all pixels that it is interpolated from count."""
    return plan.valid & (plan.apply(mask[..., None].float())[..., 0] > 1 - 1e-4)


class _ByteCache:
    """Values by key; the least recently used go when the sum of their sizes would pass the limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._entries: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> object | None:
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: Hashable, value: object, size: int) -> None:
        with self._lock:
            if key in self._entries:
                self.used -= self._entries.pop(key)[1]
            if size > self.limit:
                return
            while self.used + size > self.limit:
                self.used -= self._entries.popitem(last=False)[1][1]
            self._entries[key] = (value, size)
            self.used += size

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.used = 0
