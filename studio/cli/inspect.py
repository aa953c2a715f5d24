"""`studio inspect`: what a scene composites along the ray of a pixel, or what a text's tokens attend to, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from studio.cli.arguments import parse
from studio.cli.console import err, out, shown
from studio.errors import StudioError

if TYPE_CHECKING:
    from studio.cameras import Cameras
    from studio.training.loaded import LoadedRun


@dataclass
class Inspect:
    """Look into a trained model. Of a scene: density, weights and colour along the ray of one pixel, beside the render.
    Of a text model: the attention of every layer and head to the tokens of a text."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or one above it, whose newest run is taken. The photos are not needed."""
    ray: tuple[float, ...] = ()
    """Pixel X Y of the render, from the left and the top; default: the middle."""
    photo: str = "0"
    """Whose camera: a photo's name, the end of one, or its number among those of the evaluated split."""
    text: str | None = None
    """For a text model: the text whose attention is drawn."""
    layer: int | None = None
    """Draw this layer alone, counted from 0."""
    head: int | None = None
    """Draw this head alone, counted from 0."""
    output: Path | None = None
    """*.png, *.pdf or *.svg; default: in the run's folder, renders/ or samples/."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def main(argv: Sequence[str], started: float) -> int:
    """Draw what is inside, and say where the picture is."""
    request = parse(Inspect, argv, prog="studio inspect", positionals=1)
    from studio.devices import apply_threads
    from studio.plugin import Generator
    from studio.training.loaded import open_run

    apply_threads()
    run = open_run(request.run, device=request.device)
    draw = _draw_attention if isinstance(run.plugin, Generator) else _draw_ray
    out().print(shown(draw(run, request)), markup=False)
    return 0


def _draw_attention(run: LoadedRun, request: Inspect) -> Path:
    from studio.export.attention_plot import plot_attention
    from studio.plugin.abilities import HasAttention

    if request.ray:
        raise StudioError("--ray: a generator has no rays.", fix='Text models show their attention: --text "To be".')
    if not isinstance(run.plugin, HasAttention):
        raise StudioError(
            f"{run.path}: the plugin '{run.config.plugin}' cannot show what it attends to (capability 'attention').",
            fix="`studio plugins` shows which ones can.",
        )
    if request.text is None:
        raise StudioError("--text is missing.", fix='Give the text whose attention shall be drawn: --text "To be".')
    maps, labels = run.plugin.attention_maps(request.text), run.plugin.token_labels(request.text)
    layers = _chosen("--layer", request.layer, maps.shape[0])
    heads = _chosen("--head", request.head, maps.shape[1])
    parts = [
        f"{name}{number}" for name, number in (("layer", request.layer), ("head", request.head)) if number is not None
    ]
    where = (request.output or run.path / "samples" / f"{'_'.join(['attention', *parts])}.png").expanduser()
    plot_attention(
        where,
        maps[layers][:, heads],
        labels,
        title=f"{run.config.plugin} at step {run.step:,}: attention in {len(labels)} tokens",
        layers=layers,
        heads=heads,
    )
    err().print(f"{maps.shape[0]} layers of {maps.shape[1]} heads, {len(labels)} tokens", markup=False)
    return where


def _chosen(flag: str, number: int | None, count: int) -> list[int]:
    if number is None:
        return list(range(count))
    if not 0 <= number < count:
        raise StudioError(f"{flag}: there is no {number}.", fix=f"Give 0 to {count - 1}.")
    return [number]


def _draw_ray(run: LoadedRun, request: Inspect) -> Path:
    import torch

    from studio.export.ray_plot import plot_ray
    from studio.plugin.abilities import HasRaySamples

    field = run.field
    if request.text is not None:
        raise StudioError("--text: a scene reads no text.", fix="Give a pixel: --ray X Y.")
    if not isinstance(field, HasRaySamples):
        raise StudioError(
            f"{run.path}: the plugin '{run.config.plugin}' cannot tell what lies along a ray (capability 'inspect').",
            fix="`studio plugins` shows which ones can.",
        )
    name, camera = _camera(run, request.photo)
    width, height = camera.size
    x, y = _pixel(request.ray, width, height)
    rays = camera.to(field.device).rays(torch.tensor([[x, y]], device=field.device))
    if rays.valid is not None and not bool(rays.valid.all()):
        raise StudioError(f"--ray: the lens has no ray at ({x:g}, {y:g}).", fix="Choose a pixel nearer to the middle.")
    samples = field.ray_samples(rays.origins[0], rays.directions[0])
    (drawn,) = run.render(camera[None], ("rgb",))
    unit = float(torch.linalg.det(run.scene.input_from_scene[:3, :3]).abs()) ** (1 / 3)
    where = (request.output or run.path / "renders" / f"ray_{Path(name).stem}_{x:g}_{y:g}.png").expanduser()
    weights = samples["weights"]
    plot_ray(
        where,
        samples,
        picture=drawn["rgb"],
        pixel=(x, y),
        title=f"{run.config.plugin} at step {run.step:,}: the ray of pixel ({x:g}, {y:g}) of {name}",
        unit=unit,
        background=run.background,
    )
    err().print(
        f"{len(weights)} samples, opacity {float(weights.sum()):.3f}" if len(weights) else "the ray meets nothing",
        markup=False,
    )
    return where


def _camera(run: LoadedRun, photo: str) -> tuple[str, Cameras]:
    """The photo's name and its camera, as it was trained on."""
    if photo.lstrip("-").isdigit():
        frames = run.scene.split(run.scene.evaluation_split)
        if not 0 <= int(photo) < len(frames):
            raise StudioError(
                f"--photo: there is no photo {photo} in the split '{run.scene.evaluation_split}'.",
                fix=f"Give a number from 0 to {len(frames) - 1}, or a name.",
            )
        frame = frames[int(photo)]
    else:
        found = [f for f in run.scene.frames if f.name == photo] or [
            f for f in run.scene.frames if f.name.endswith(photo) or Path(f.name).stem == photo
        ]
        if len(found) != 1:
            problem = "there is no photo" if not found else f"{len(found)} photos are called"
            raise StudioError(
                f"--photo: {problem} '{photo}'.",
                fix=f"Names are like {run.scene.frames[0].name}; numbers will do, too.",
            )
        frame = found[0]
    camera = frame.camera.rescale(1 / run.config.data.downscale)
    if camera.model not in run.field.camera_models:
        # As training saw it: undistorted.
        camera = replace(camera, model="pinhole", distortion=None)
    return frame.name, camera


def _pixel(ray: tuple[float, ...], width: int, height: int) -> tuple[float, float]:
    if len(ray) not in (0, 2):
        raise StudioError(f"--ray: takes 2 numbers, got {len(ray)}.", fix="Give the pixel as X Y.")
    x, y = ray or (width / 2, height / 2)
    if not (0 <= x <= width and 0 <= y <= height):
        raise StudioError(
            f"--ray: ({x:g}, {y:g}) is outside of the picture, which is {width}x{height}.",
            fix=f"Give 0 to {width} and 0 to {height}.",
        )
    return x, y
