"""COLMAP's stages (Schönberger and Frahm, *Structure-from-Motion Revisited*, 2016) on one folder of photos."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from studio.errors import MissingDependencyError, StudioError
from studio.reconstruction.photos import Lens

Quality = Literal["quick", "default", "high"]
LensModel = Literal["radial", "opencv", "fisheye"]

LENSES: dict[str, str] = {"radial": "SIMPLE_RADIAL", "opencv": "OPENCV", "fisheye": "OPENCV_FISHEYE"}
"""Our names of lens models -> COLMAP's."""
_DISTORTIONS = {"SIMPLE_RADIAL": 1, "OPENCV": 4, "OPENCV_FISHEYE": 4}
_FOCALS = {"SIMPLE_RADIAL": 1, "OPENCV": 2, "OPENCV_FISHEYE": 2}
QUALITIES: dict[str, tuple[int, int]] = {"quick": (800, 2048), "default": (1600, 8192), "high": (3200, 16384)}
"""Longer side of the photos that features are found in, and how many are kept of each."""
_MINIMUM_VERSION = (4, 2)
_JPEG_QUALITY = 95
_FATAL = 3


@dataclass(frozen=True)
class Model:
    """One of the models that mapping gave: photos whose poses are known relative to each other."""

    number: int
    """The subfolder of its files."""
    photos: Mapping[int, int]
    """Number of a photo -> points it sees."""
    points: int
    reprojection_error: float
    """Mean over all observations, pixels."""


@dataclass(frozen=True)
class Statistics:
    """What is known of the photos before mapping."""

    features: Mapping[int, int]
    """Number of a photo -> features found in it."""
    matches: Mapping[tuple[int, int], int]
    """Pair of photos (i < j) -> matches that fit one geometry, where there are enough to count."""


def require_pycolmap() -> ModuleType:
    """The package, or a StudioError that says how to install it."""
    try:
        import pycolmap
    except ImportError as error:
        raise MissingDependencyError("pycolmap", "sfm", purpose="Finding the poses of photos") from error
    found: ModuleType = pycolmap
    version = str(getattr(pycolmap, "__version__", "0"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < _MINIMUM_VERSION:
        wanted = ".".join(map(str, _MINIMUM_VERSION))
        raise StudioError(
            f"Finding the poses of photos needs pycolmap {wanted} or newer, and {version} is installed.",
            fix="Update it with: pip install --upgrade 'neural-studio[sfm]'",
        )
    return found


class Workplace:
    """A database, links to the photos under names without surprises, and the models made from them.

    Photos are known by number. COLMAP's own messages are kept back; its failures become StudioErrors.

    Args:
        folder: An empty folder for all that is made.
        quality: See `QUALITIES`.
        seed: Of all random choices; the same photos, seed and version of COLMAP give the same model.
        threads: How many compute.
    """

    def __init__(self, folder: Path, *, quality: Quality = "default", seed: int = 0, threads: int = 1) -> None:
        self._colmap: Any = require_pycolmap()
        self.photos = folder / "photos"
        self.models = folder / "models"
        self._database = folder / "database.db"
        self._pairs = folder / "pairs.txt"
        self._side, self._features = QUALITIES[quality]
        self._seed = seed
        self._threads = threads
        self._names: dict[str, int] = {}
        for place in (self.photos, self.models):
            place.mkdir(parents=True)

    def place_for(self, number: int, suffix: str) -> Path:
        """Where to put photo `number`; numbers count from 0."""
        # COLMAP's list of pairs is separated by spaces, so photos cannot keep their names.
        path = self.photos / f"{number:06d}{suffix}"
        self._names[path.name] = number
        return path

    def add_photos(self, groups: Mapping[Lens, Sequence[int]], lens: LensModel, exif_of: Callable[[int], Path]) -> None:
        """Enter the photos into the database, each group with one camera.

        Args:
            groups: Camera -> numbers of its photos.
            lens: Model of all cameras.
            exif_of: The file whose EXIF tells the focal length that a camera starts with.
        """
        model = LENSES[lens]
        by_number = {number: name for name, number in self._names.items()}
        with self._guarded("reading photos"):
            self._colmap.Database.open(self._database).close()
            for taken_by, group in groups.items():
                options = self._colmap.ImageReaderOptions(camera_model=model)
                guess = self._colmap.infer_camera_from_image(exif_of(group[0]), options)
                if guess.has_prior_focal_length:
                    focal = [float(guess.params[0])] * _FOCALS[model]
                    numbers = [*focal, taken_by.width / 2, taken_by.height / 2, *[0.0] * _DISTORTIONS[model]]
                    options.camera_params = ",".join(map(repr, numbers))
                names = [by_number[number] for number in group]
                mode = self._colmap.CameraMode.SINGLE
                self._colmap.import_images(self._database, self.photos, mode, names, options)

    def find_features(self, numbers: Sequence[int]) -> None:
        """Find and describe features (SIFT) in some photos."""
        names = {number: name for name, number in self._names.items()}
        options = self._colmap.FeatureExtractionOptions(
            max_image_size=self._side, num_threads=self._threads, use_gpu=False
        )
        options.sift.max_num_features = self._features
        with self._guarded("finding features"):
            self._colmap.extract_features(
                self._database, self.photos, [names[n] for n in numbers], extraction_options=options
            )

    def match(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Match the features of some pairs of photos, and keep what fits one geometry."""
        names = {number: name for name, number in self._names.items()}
        self._pairs.write_text("".join(f"{names[i]} {names[j]}\n" for i, j in pairs), encoding="utf-8")
        matching = self._colmap.FeatureMatchingOptions(num_threads=self._threads, use_gpu=False)
        verification = self._colmap.TwoViewGeometryOptions()
        verification.ransac.random_seed = self._seed
        pairing = self._colmap.ImportedPairingOptions(match_list_path=str(self._pairs))
        with self._guarded("matching"):
            self._colmap.match_image_pairs(self._database, matching, pairing, verification)

    def statistics(self) -> Statistics:
        """Features and verified matches so far."""
        with (
            self._guarded("reading the database"),
            contextlib.closing(self._colmap.Database.open(self._database)) as database,
        ):
            numbers = {image.image_id: self._names[image.name] for image in database.read_all_images()}
            features = {number: int(database.num_keypoints_for_image(i)) for i, number in numbers.items()}
            ids, counts = database.read_two_view_geometry_num_inliers()
            matches: dict[tuple[int, int], int] = {}
            for pair, count in zip(ids, counts, strict=True):
                first, second = pair if isinstance(pair, tuple) else self._colmap.pair_id_to_image_pair(pair)
                i, j = sorted((numbers[first], numbers[second]))
                if count > 0:
                    matches[i, j] = int(count)
        return Statistics(features, matches)

    def map(self, registered: Callable[[], None] = lambda: None) -> list[Model]:
        """Build models, the largest first, from what was matched.

        Args:
            registered: Called after each photo whose pose was found (of every model).
        """
        options = self._colmap.IncrementalPipelineOptions(
            num_threads=self._threads, random_seed=self._seed, min_model_size=3
        )
        options.mapper.random_seed = self._seed
        options.triangulation.random_seed = self._seed

        def started() -> None:
            # A model starts with two photos, of which COLMAP tells once.
            registered()
            registered()

        with self._guarded("mapping"):
            self._colmap.incremental_mapping(
                self._database,
                self.photos,
                self.models,
                options,
                initial_image_pair_callback=started,
                next_image_callback=registered,
            )
            found = [self._model(int(path.name)) for path in self.models.iterdir() if path.name.isdigit()]
        return sorted((m for m in found if m.photos), key=lambda m: (-len(m.photos), -m.points, m.number))

    def _model(self, number: int) -> Model:
        model = self._colmap.Reconstruction(self.models / str(number))
        photos = {self._names[image.name]: int(image.num_points3D) for image in _posed(model)}
        return Model(number, photos, int(model.num_points3D()), float(model.compute_mean_reprojection_error()))

    def undistort(self, model: Model, names: Mapping[int, str], target: Path, max_size: int | None) -> None:
        """Write the photos of a model as pinhole photos to ``target/images`` and the model to ``target/sparse/0``.

        Args:
            model: One of those that `map` gave.
            names: Number of a photo -> its file name in the scene.
            target: An existing folder.
            max_size: Longest side of the photos written; None keeps the size.
        """
        raw = target / "undistorted"
        options = self._colmap.UndistortCameraOptions(max_image_size=-1 if max_size is None else max_size)
        with self._guarded("undistorting"):
            self._colmap.undistort_images(
                raw,
                self.models / str(model.number),
                self.photos,
                undistort_options=options,
                jpeg_quality=_JPEG_QUALITY,
                num_threads=self._threads,
            )
            written = self._colmap.Reconstruction(raw / "sparse")
            images = target / "images"
            images.mkdir()
            for image in _posed(written):
                name = names[self._names[image.name]]
                (raw / "images" / image.name).rename(images / name)
                image.name = name
            sparse = target / "sparse" / "0"
            sparse.mkdir(parents=True)
            written.write_binary(sparse)
        shutil.rmtree(raw)

    @contextlib.contextmanager
    def _guarded(self, stage: str) -> Iterator[None]:
        """Keep COLMAP's own messages back, and tell its failures as an error of this stage."""
        log = self._colmap.logging
        before = log.minloglevel
        log.minloglevel = _FATAL
        try:
            yield
        except (RuntimeError, ValueError, IndexError) as error:
            text = " ".join(str(error).split())
            raise StudioError(
                f"COLMAP failed in {stage}: {text}.", fix="Leave out unusual photos, or report this with the message."
            ) from error
        finally:
            log.minloglevel = before


def _posed(model: Any) -> list[Any]:
    return [image for _, image in sorted(model.images.items()) if image.has_pose]
