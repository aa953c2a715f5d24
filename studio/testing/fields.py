"""Checks of what a Field shows and tells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from studio.cameras import CAMERA_MODELS, CameraModel, Cameras
from studio.export.gaussians import GaussianCloud
from studio.plugin import Field
from studio.testing.data import HEIGHT, WIDTH
from studio.testing.report import CheckFailed, NotApplicable
from studio.testing.subject import Subject
from studio.testing.training import first_camera

_CHANNELS = {"rgb": 3, "depth": 1, "opacity": 1, "normals": 3, "median_depth": 1}
_SLACK = 1e-3
"""How far a colour or an opacity may lie outside of [0, 1]."""
_BLEND = 0.02
"""How well renders on two backgrounds must tell the opacity, and samples the opacity of their pixel."""


def check_render(subject: Subject, field: Field) -> str | None:
    """Every declared output of every declared camera model, with the right shapes, values and background."""
    names = tuple(field.output_names)
    if "rgb" not in names:
        raise CheckFailed("output_names lacks 'rgb'.", "Every Field renders at least colours.")
    unknown = [model for model in field.camera_models if model not in CAMERA_MODELS]
    if unknown:
        raise CheckFailed(
            f"camera_models has '{unknown[0]}', which the studio does not know.", f"Known: {', '.join(CAMERA_MODELS)}."
        )
    if not field.camera_models:
        raise CheckFailed("camera_models is empty.", "Name at least 'pinhole'.")
    camera = first_camera(subject).to(field.device)
    drawn = field.render(camera, names)
    _check_outputs(drawn, names, (HEIGHT, WIDTH), field)
    only = field.render(camera, ("rgb",))
    if set(only) != {"rgb"}:
        raise CheckFailed(f"render(cameras, ('rgb',)) returns {', '.join(sorted(only))}.", "Return what was asked for.")
    if not torch.allclose(only["rgb"], drawn["rgb"], atol=1e-4):
        raise CheckFailed("the colours depend on which other outputs are asked for.")
    pair = Cameras.stack([camera, camera])
    _check_outputs(field.render(pair, names), names, (2, HEIGHT, WIDTH), field)
    for model in CAMERA_MODELS:
        if model not in field.camera_models:
            continue
        _check_outputs(field.render(_camera_of(model, camera), names), names, (HEIGHT, WIDTH), field, model)
    if "opacity" in names:
        _check_background(field, camera, drawn["opacity"])
    return f"{', '.join(names)}; {', '.join(field.camera_models)}"


def _camera_of(model: CameraModel, camera: Cameras) -> Cameras:
    focal = {"equirectangular": (WIDTH / 2, float(HEIGHT)), "orthographic": (WIDTH / 2.0, WIDTH / 2.0)}
    fx, fy = focal.get(model, (float(camera.fx), float(camera.fy)))
    distortion = [0.05, -0.02] if model in ("opencv", "fisheye") else None
    return Cameras.make(
        camera.camera_to_world, width=WIDTH, height=HEIGHT, fx=fx, fy=fy, model=model, distortion=distortion
    )


def _check_outputs(
    drawn: Mapping[str, Tensor], names: tuple[str, ...], size: tuple[int, ...], field: Field, model: str = "pinhole"
) -> None:
    if missing := [name for name in names if name not in drawn]:
        raise CheckFailed(
            f"render returns no '{missing[0]}', which output_names has.", "Return it, or take it out there."
        )
    for name in names:
        value, channels = drawn[name], _CHANNELS.get(name)
        what = f"render's '{name}' ({model})"
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            raise CheckFailed(f"{what} is {getattr(value, 'dtype', type(value).__name__)}, not float32.")
        shape = tuple(value.shape)
        if len(shape) != len(size) + 1 or shape[:-1] != size or (channels is not None and shape[-1] != channels):
            expected = (*size, channels or "c")
            raise CheckFailed(
                f"{what} has shape {shape}, expected {expected}.", "Pictures are (..., height, width, c)."
            )
        if value.requires_grad:
            raise CheckFailed(f"{what} carries gradients.", "Put @torch.no_grad() on render.")
        if not bool(value.isfinite().all()):
            raise CheckFailed(f"{what} has values that are not finite.")
        low, high = float(value.min()), float(value.max())
        if name in ("rgb", "opacity") and (low < -_SLACK or high > 1 + _SLACK):
            raise CheckFailed(f"{what} has values from {low:.4g} to {high:.4g}, outside of [0, 1].")
        if name in ("depth", "median_depth") and model == "pinhole" and low < -_SLACK:
            raise CheckFailed(
                f"{what} has negative values ({low:.4g}).", "Depth is the z-depth in front of the camera."
            )


def _check_background(field: Field, camera: Cameras, opacity: Tensor) -> None:
    black = field.render(camera, ("rgb",), background=torch.zeros(3, device=field.device))["rgb"]
    white = field.render(camera, ("rgb",), background=torch.ones(3, device=field.device))["rgb"]
    error = float(((white - black) - (1 - opacity)).abs().max())
    if error > _BLEND:
        raise CheckFailed(
            f"the background does not show where the opacity says so (off by {error:.3f}).",
            "rgb = colour + (1 - opacity) * background.",
        )


def check_export(subject: Subject, field: Field, folder: Path) -> str | None:
    """Every declared format leaves a file."""
    if not field.export_formats:
        raise CheckFailed("export_formats is empty.", "Name the formats, each with a line of help.")
    folder.mkdir(parents=True, exist_ok=True)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    for name, help_line in field.export_formats.items():
        if not isinstance(help_line, str) or not help_line:
            raise CheckFailed(f"the format '{name}' has no line of help.")
        path = folder / f"exported.{name}"
        field.export(name, path, input_from_scene=matrix)
        if not path.exists() or (path.is_file() and path.stat().st_size == 0):
            raise CheckFailed(
                f"export('{name}', path) leaves nothing at the path.", "Write to the path as it is given."
            )
    return ", ".join(field.export_formats)


def check_density(subject: Subject, field: Field) -> str | None:
    """Absorption at points: one number each, not negative, without gradients."""
    generator = torch.Generator().manual_seed(0)
    points = (2 * torch.rand(257, 3, generator=generator) - 1).to(field.device)
    density = field.density(points)  # type: ignore[operator]
    if not isinstance(density, Tensor) or tuple(density.shape) != (257,):
        shape = tuple(density.shape) if isinstance(density, Tensor) else type(density).__name__
        raise CheckFailed(f"density of 257 points has shape {shape}, expected (257,).")
    if density.requires_grad:
        raise CheckFailed("density carries gradients.", "Put @torch.no_grad() on it.")
    if not bool(density.isfinite().all()) or float(density.min()) < 0:
        raise CheckFailed(f"density has values down to {float(density.min()):.4g}, or not finite.", "It is at least 0.")
    few = field.density(points[:3])  # type: ignore[operator]
    if not torch.allclose(few, density[:3], rtol=1e-2, atol=1e-3):
        raise CheckFailed("density at a point depends on which other points are asked for.")
    return None


def check_inspect(subject: Subject, field: Field) -> str | None:
    """The samples of a ray, which make up the pixel that `render` shows."""
    camera = first_camera(subject).to(field.device)
    row, column = HEIGHT // 2, WIDTH // 2
    rays = camera.rays(torch.tensor([[column + 0.5, row + 0.5]], device=field.device))
    found = field.ray_samples(rays.origins[0], rays.directions[0])  # type: ignore[operator]
    for name, width in (("t", ()), ("density", ()), ("weights", ()), ("rgb", (3,))):
        if name not in found:
            raise CheckFailed(f"ray_samples returns no '{name}'.", "See studio.plugin.abilities.RaySamples.")
        if tuple(found[name].shape) != (len(found["t"]), *width):
            raise CheckFailed(f"ray_samples' '{name}' has shape {tuple(found[name].shape)}.")
        if not bool(found[name].isfinite().all()):
            raise CheckFailed(f"ray_samples' '{name}' is not finite.")
    t, weights = found["t"], found["weights"]
    if len(t) > 1 and float(t.diff().min()) < 0:
        raise CheckFailed("ray_samples' 't' is not in order.", "Nearest first.")
    if "opacity" in field.output_names:
        opacity = float(field.render(camera, ("opacity",))["opacity"][row, column, 0])
        if abs(float(weights.sum()) - opacity) > _BLEND:
            raise CheckFailed(
                f"the weights of a ray sum to {float(weights.sum()):.3f}, its pixel has an opacity of {opacity:.3f}.",
                "Take the samples that render composites.",
            )
    return f"{len(t)} samples"


def check_gaussians(subject: Subject, field: Field) -> str | None:
    """A Field made of its own Gaussians shows the same."""
    cloud = field.cloud()  # type: ignore[operator]
    if not isinstance(cloud, GaussianCloud):
        raise CheckFailed(f"cloud returns {type(cloud).__name__}.", "Return a studio.export.gaussians.GaussianCloud.")
    again = type(field).from_gaussians(cloud, field.config, field.scene_info)  # type: ignore[attr-defined]
    if not isinstance(again, Field):
        raise CheckFailed(f"from_gaussians returns {type(again).__name__}, not a Field.")
    again.to(field.device)
    camera = first_camera(subject).to(field.device)
    error = float((field.render(camera)["rgb"] - again.render(camera)["rgb"]).abs().max())
    if error > _BLEND:
        raise CheckFailed(
            f"a Field made of its own Gaussians renders other colours (off by {error:.3f}).",
            "from_gaussians(field.cloud(), field.config) must render like field.",
        )
    return f"{len(cloud):,} Gaussians"


def check_opaque(subject: Subject, device: torch.device) -> str | None:
    """Photos without an alpha channel are trained on and rendered, too."""
    if subject.data.kind != "opaque photos":
        raise NotApplicable("there are none.")
    losses = subject.losses(device, 3)
    if not all(torch.isfinite(torch.tensor(losses))):
        raise CheckFailed(f"the losses on photos without alpha are {losses}.")
    return None
