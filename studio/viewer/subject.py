"""What is viewed: a trained run, a file of Gaussians, or posed photos; one description for all of them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras import Cameras, Similarity
from studio.errors import StudioError
from studio.export.gaussians import GaussianCloud
from studio.export.splat_formats import HasGaussians, is_splat_path, read_gaussians
from studio.plugin.abilities import FromGaussians
from studio.plugin.base import Field
from studio.reading.files import is_file, is_folder
from studio.reading.neighbours import meant
from studio.registry import find_plugin, list_plugins, load_plugin_class
from studio.scene import PhotoStore, PointCloud, Scene
from studio.scene.normalize import focus_point, scene_vertical
from studio.training.loaded import LoadedRun, open_run
from studio.training.start import Prepared

_UP_OF_FILES = (0.0, -1.0, 0.0)
"""Files of Gaussians mostly lie in the frame of a structure-from-motion program, whose y axis points down."""
_PHOTO_CACHE = 512 << 20
_FOV = 0.9


def _identity() -> Tensor:
    return torch.eye(4, dtype=torch.float64)


@dataclass(eq=False)
class Subject:
    """What is viewed. All of it lies in the scene's frame; `input_from_scene` leads to the frame of the input."""

    title: str
    field: Field | None = None
    """Renders; None for photos alone."""
    cloud: GaussianCloud | None = None
    """The Gaussians of a file; those of a run are asked of its field."""
    scene: Scene | None = None
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    input_from_scene: Float[Tensor, "4 4"] = dataclasses.field(
        default_factory=lambda: torch.eye(4, dtype=torch.float64)
    )
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    folder: Path | None = None
    """Where exports, paths and videos go; None: to the browser only."""
    run: LoadedRun | None = None
    photo_downscale: float = 1.0

    @property
    def has_gaussians(self) -> bool:
        return self.cloud is not None or isinstance(self.field, HasGaussians)

    def gaussians(self) -> GaussianCloud:
        """All Gaussians, as they are now; only where `has_gaussians`."""
        if self.cloud is not None:
            return self.cloud
        assert isinstance(self.field, HasGaussians)
        return self.field.cloud()

    @cached_property
    def photos(self) -> PhotoStore | None:
        """All photos of the scene, in the order of its frames, as pinhole photos where the field needs that."""
        if self.scene is None or not self.scene.frames:
            return None
        models = ("pinhole",) if self.field is None else self.field.camera_models
        distorted = {frame.camera.model for frame in self.scene.frames} - set(models)
        undistort = bool(distorted) and distorted <= {"opencv", "fisheye"}
        return PhotoStore(self.scene.frames, self.photo_downscale, cache_bytes=_PHOTO_CACHE, undistort=undistort)

    @property
    def scene_from_input(self) -> Similarity:
        return Similarity.from_matrix(torch.linalg.inv(self.input_from_scene.double()))

    @property
    def unit(self) -> float:
        """Length of a scene unit in units of the input."""
        return float(torch.linalg.det(self.input_from_scene[:3, :3].double()).abs()) ** (1 / 3)

    @cached_property
    def points(self) -> PointCloud | None:
        """Sparse points that came with the photos."""
        return None if self.scene is None else self.scene.points

    @cached_property
    def box(self) -> Float[Tensor, "2 3"]:
        """Low and high corner of the content of interest."""
        if self.scene is not None and self.scene.bounds is not None:
            return self.scene.bounds.float()
        if self.has_gaussians and len(self.gaussians()):
            return PointCloud(self.gaussians().means, self.gaussians().means).bounds(0.02)
        if self.scene is not None and self.scene.frames:
            origins = self._poses[:, :3, 3].float()
            return torch.stack([origins.amin(0), origins.amax(0)])
        return torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])

    @cached_property
    def size(self) -> float:
        """A length that things in the scene go by: the cameras' distance from their middle, else half the box."""
        if self.scene is not None and len(self.scene.frames) > 1:
            return float(self.scene.camera_extent)
        return max(float((self.box[1] - self.box[0]).norm()) / 2, 1e-6)

    @property
    def _poses(self) -> Float[Tensor, "n 4 4"]:
        assert self.scene is not None
        return torch.stack([frame.camera.camera_to_world.double() for frame in self.scene.frames])

    def first_view(self) -> FirstView:
        """Where a browser starts: at the first photo, or in front of the whole file."""
        middle = self.box.double().mean(0)
        if self.scene is None or not self.scene.frames:
            up = torch.tensor(self.up, dtype=torch.float64)
            side = torch.zeros(3, dtype=torch.float64)
            side[(up.abs().argmax() + 2) % 3] = -1.0
            away = torch.nn.functional.normalize(side + 0.25 * up, dim=0)
            # All of the sphere around the box fits in.
            distance = float((self.box[1] - self.box[0]).norm()) / 2 / math.sin(_FOV / 2)
            return FirstView(middle + away * max(distance, 1e-3), middle, _FOV)
        frames = self.scene.split("train") or self.scene.frames
        camera = frames[0].camera
        position = camera.origins.double()
        forward = camera.forward.double()
        focus = focus_point(self._poses)
        ahead = float((focus - position) @ forward) if focus is not None else 0.0
        # Dragging turns the view about the point looked at: it must be in front, and about where the content is.
        target = position + forward * (ahead if ahead > 1e-3 * self.size else self.size)
        if self.field is None:
            # Behind the cameras, as there is nothing to see from within one.
            up = torch.tensor(self.up, dtype=torch.float64)
            return FirstView(position + self.size * (0.5 * up - 1.5 * forward), target, _FOV)
        fov = 2 * torch.atan(camera.height / 2 / camera.fy) if camera.model in _PERSPECTIVE else torch.tensor(_FOV)
        return FirstView(position, target, float(fov))


_PERSPECTIVE = ("pinhole", "opencv")


@dataclass(frozen=True, eq=False)
class FirstView:
    position: Float[Tensor, " 3"]
    target: Float[Tensor, " 3"]
    fov: float
    """Vertical, radians."""


def subject_of_run(run: LoadedRun) -> Subject:
    """A trained scene, its photos if they are still there."""
    field = run.field
    return Subject(
        title=f"{run.scene.name} / {run.config.plugin}",
        field=field,
        scene=run.scene,
        background=field.scene_info.background or (0.0, 0.0, 0.0),
        input_from_scene=run.scene.input_from_scene,
        up=scene_up(run.scene),
        folder=run.path,
        run=run,
        photo_downscale=run.config.data.downscale,
    )


def subject_of_training(prepared: Prepared) -> Subject:
    """A scene that is being trained."""
    return subject_of_run(prepared.loaded())


def subject_of_scene(scene: Scene) -> Subject:
    """Posed photos and their points."""
    return Subject(title=scene.name, scene=scene, input_from_scene=scene.input_from_scene, up=scene_up(scene))


def subject_of_file(path: Path, *, device: str = "auto") -> Subject:
    """A file of Gaussians of any program, drawn by a plugin that can take them.

    Raises:
        StudioError: The file cannot be read, or no installed plugin draws Gaussians.
    """
    cloud = read_gaussians(path)
    return Subject(
        title=path.name,
        field=field_of_gaussians(cloud, device=device),
        cloud=cloud,
        up=_UP_OF_FILES,
        background=(1.0, 1.0, 1.0),
    )


def field_of_gaussians(cloud: GaussianCloud, *, device: str = "auto") -> Field:
    """A Field that draws these Gaussians: of the first plugin that declares the capability 'gaussians'.

    Raises:
        StudioError: No plugin does.
    """
    from studio.devices import select

    for entry in list_plugins():
        if entry.status == "ok" and entry.spec is not None and "gaussians" in entry.spec.capabilities:
            cls: Any = load_plugin_class(find_plugin(entry.name))
            field: Field = cls.from_gaussians(cloud)
            field.to(select(device, supported=entry.spec.devices).torch_device)
            field.eval()
            return field
    raise StudioError(
        "No installed plugin draws Gaussians (capability 'gaussians').", fix="`studio plugins` lists what is there."
    )


def derived_field(field: Field, cloud: GaussianCloud) -> Field | None:
    """A Field of the same kind and options with other Gaussians; None where its plugin cannot make one."""
    if not isinstance(field, FromGaussians):
        return None
    made = type(field).from_gaussians(cloud, field.config, field.scene_info)
    made.to(field.device)
    made.eval()
    return made


def open_subject(path: Path, *, device: str = "auto", reader: dict[str, Any] | None = None) -> Subject | LoadedRun:
    """Open whatever a path holds: a run's folder (or one above), a splat file, or a folder of posed photos.

    Returns:
        A `Subject`; the run itself if it is a generator's, which has no scene.

    Raises:
        StudioError: There is neither; names what was looked for.
    """
    from studio.readers import load_scene
    from studio.training.run import RunFolder

    path = path.expanduser()
    if not is_file(path) and not is_folder(path):
        raise StudioError(
            f"{path}: does not exist.", fix=meant(path, "Give a run's folder, a splat file, or a folder of photos.")
        )
    if is_splat_path(path) and path.suffix != ".json":
        return subject_of_file(path, device=device)
    try:
        RunFolder.open(path)
    except StudioError:
        try:
            return subject_of_scene(load_scene(str(path), **(reader or {})))
        except StudioError as error:
            raise StudioError(
                f"{path}: neither a run (no config.yaml), nor a splat file, nor posed photos: {error}",
                fix="Give a run's folder, a .ply, .spz, .splat or .sog file, or a folder of posed photos.",
            ) from error
    run = open_run(path, device=device)
    return subject_of_run(run) if run.config.kind == "field" else run


def scene_up(scene: Scene) -> tuple[float, float, float]:
    """The vertical of a scene, for viser."""
    x, y, z = scene_vertical(scene).tolist()
    return (x, y, z)


def camera_in_scene(cameras: Cameras, subject: Subject) -> Cameras:
    """Cameras from the frame of the input to the scene's."""
    return cameras.to(dtype=torch.float64).transformed(subject.scene_from_input).to(dtype=torch.float32)


def camera_in_input(cameras: Cameras, subject: Subject) -> Cameras:
    """Inverse of `camera_in_scene`."""
    similarity = Similarity.from_matrix(subject.input_from_scene.double())
    return cameras.to(dtype=torch.float64).transformed(similarity).to(dtype=torch.float32)
