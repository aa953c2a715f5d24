"""`studio compare` of scenes: one camera path through several runs, side by side or wiped from one to the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras import Cameras, Similarity
from studio.catalog import compare_runs, on_different_data, read_run
from studio.cli.console import progress
from studio.cli.render_path import PathOptions, RenderPath, make_path
from studio.cli.render_pictures import Pictures
from studio.errors import StudioError
from studio.export.pictures import caption, side_by_side
from studio.export.video import VideoWriter
from studio.training.loaded import LoadedRun

_SWEEP = 0.46
"""How far a wipe's edge goes to either side of the middle, of the width."""
_SWEEP_SECONDS = 4.0
_EDGE = 2


@dataclass(frozen=True)
class SceneComparison:
    """What is drawn of the runs."""

    path: PathOptions
    output: str = "rgb"
    color_map: str = "turbo"
    wipe: bool = False
    """Two runs in one picture, with an edge that moves to and fro."""
    labels: tuple[str, ...] = ()
    """One a run; default: what tells them apart."""


def write_comparison(
    path: Path, runs: Sequence[LoadedRun], what: SceneComparison, tell: Callable[[str], None] = lambda text: None
) -> None:
    """Render the same cameras in every run and write them into one video or folder.

    The path is laid by the photos of the first run; the others are seen from the same places in the frame of the input
    cameras, however each normalised its scene.

    Args:
        path: As of `VideoWriter`.
        runs: Of fields, on one scene.
        what: Path, output and labels.
        tell: Told in a line what was decided.

    Raises:
        StudioError: Wipe with other than two runs, labels that are not one a run, or an output that a run lacks.
    """
    if what.wipe and len(runs) != 2:
        raise StudioError(f"--wipe: goes between two runs, not {len(runs)}.", fix="Name two runs.")
    records = [read_run(run.path) for run in runs]
    labels = what.labels or compare_runs(records).names
    if len(labels) != len(runs):
        raise StudioError(f"--labels: {len(labels)} for {len(runs)} runs.", fix="Give one for each run.")
    for run in runs:
        if what.output not in run.field.output_names:
            raise StudioError(
                f"{run.path}: '{run.config.plugin}' does not render '{what.output}'.",
                fix=f"It renders {', '.join(run.field.output_names)}.",
            )
    if on_different_data(records):
        tell("note: the runs were trained on different data; they are seen from the same places in the input's frame")
    laid = make_path(runs[0], what.path, tell)
    sources = _pictures(runs, laid, what)
    with ExitStack() as stack:
        video = stack.enter_context(VideoWriter(path, fps=laid.fps))
        advance = stack.enter_context(progress("rendering", len(laid.cameras)))
        for index, pictures in enumerate(zip(*sources, strict=True)):
            if what.wipe:
                share = wipe_share(index / laid.fps)
                video.write(wiped(pictures[0], pictures[1], share, labels))
            else:
                video.write(side_by_side([caption(p, text) for p, text in zip(pictures, labels, strict=True)]))
            advance()


def _pictures(runs: Sequence[LoadedRun], laid: RenderPath, what: SceneComparison) -> list[Iterator[Tensor]]:
    """One iterator of pictures a run. Colours of depth mean the same in all of them."""
    drawn = [
        Pictures(run, cameras_for(run, runs[0], laid.cameras), (what.output,), color_map=what.color_map) for run in runs
    ]
    limits = [pictures.limits[what.output] for pictures in drawn if what.output in pictures.limits]
    if limits:
        shared = (min(low for low, _ in limits), max(high for _, high in limits))
        for pictures in drawn:
            pictures.limits[what.output] = shared
    return [(panels[0] for panels in pictures) for pictures in drawn]


def cameras_for(run: LoadedRun, first: LoadedRun, cameras: Cameras) -> Cameras:
    """Cameras in the frame of the first run's scene, moved to where they are in this run's."""
    if run is first:
        return cameras
    if cameras.model not in run.field.camera_models:
        raise StudioError(f"{run.path}: '{run.config.plugin}' does not render {cameras.model} cameras.")
    move = Similarity.from_matrix(run.scene.scene_from_input @ first.scene.input_from_scene)
    return cameras.to(dtype=torch.float64).transformed(move).to(dtype=torch.float32)


def wipe_share(seconds: float) -> float:
    """Where the edge stands, 0 at the left to 1 at the right; it begins in the middle and swings like a pendulum."""
    return 0.5 + _SWEEP * math.sin(2 * math.pi * seconds / _SWEEP_SECONDS)


def wiped(
    left: Float[Tensor, "h w 3"], right: Float[Tensor, "h w 3"], share: float, labels: Sequence[str]
) -> Float[Tensor, "h2 w 3"]:
    """The left picture up to a share of the width, the right one beyond, a white edge between them, labels above."""
    width = left.shape[1]
    edge = min(max(round(share * width), 0), width)
    picture = torch.cat([left[:, :edge], right[:, edge:]], dim=1).clamp(0, 1)
    picture[:, max(edge - _EDGE // 2, 0) : edge + _EDGE // 2] = 1.0
    # Each label over its own half, so that they do not move with the edge.
    middle = width // 2
    text = torch.cat([_label(left[:, :middle], labels[0]), _label(right[:, middle:], labels[1])], dim=1)
    return torch.cat([text, picture], dim=0)


def _label(picture: Tensor, text: str) -> Tensor:
    """The strip that `caption` puts above a picture."""
    labelled = caption(picture, text)
    return labelled[: labelled.shape[0] - picture.shape[0]]
