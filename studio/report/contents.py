"""What is said about a run: found in its folder, and drawn by its plugin where that works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio import __version__
from studio.catalog import RunRecord, read_run
from studio.errors import StudioError
from studio.export.colormaps import colormap
from studio.metrics import PhotoScore
from studio.plugin.base import Generator
from studio.reading.json_text import read_json_object
from studio.reading.pictures import opened_picture
from studio.registry import find_plugin, load_config_class
from studio.report.curves import panels_of, show_number
from studio.report.document import Document, Picture, Row
from studio.scene import Photo
from studio.training.loaded import LoadedRun, evaluate_field, open_run
from studio.training.previews import FILM as PREVIEW_FILM
from studio.training.previews import labelled_grid, scatter
from studio.training.run import RunFolder
from studio.training.sampling import draw_samples
from studio.training.timelapse import FILM as TIMELAPSE

_TILES = ("psnr", "ssim", "lpips", "fid", "kid", "class_accuracy", "perplexity", "nats_per_character", "bits_per_dim")
_NAMES = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS", "fid": "FID", "kid": "KID × 1000"}
_MOST_TILES = 4
_ERROR_MAP, _ERROR_LIMITS = "inferno", (0.05, 0.1, 0.2, 0.5, 1.0)
_LARGEST_FILM = 12 << 20
_STAGES = 4
_PICTURES, _POINTS, _TEXTS, _TEXT_LENGTH = 64, 2000, 3, 1500
_PHOTO_ROWS = 200


@dataclass(frozen=True)
class ReportOptions:
    """What goes into a report."""

    photos: int = 6
    """Held-out photos that are shown beside their renders; 0: none, and nothing is rendered."""
    samples: bool = True
    """Draw samples of a generator."""
    seed: int = 0
    device: str = "auto"


Tell = Callable[[str], None]


def collect_report(folder: RunFolder, options: ReportOptions, tell: Tell = lambda text: None) -> Document:
    """Gather all that a run's folder holds, and render or sample it.

    What is not there (photos that are gone, a plugin that is not installed) becomes a note in the report.

    Args:
        folder: Of the run.
        options: What to show.
        tell: Told in one line what is being done.

    Raises:
        StudioError: The run's configuration cannot be read.
    """
    config = folder.read_config()
    record = read_run(folder.path)
    rows = [row for row in folder.read_metrics() if isinstance(row, dict)]
    preset = f" ({record.preset})" if record.preset else ""
    document = Document(
        title=f"{record.data}: {record.plugin}{preset}",
        subtitle=f"{record.started.replace('T', ' ')} · {record.status} at step {record.step:,} of "
        f"{record.total_steps:,} · {folder.path}",
        panels=panels_of(rows),
        footer=f"Written by neural-studio {__version__}.",
    )
    evaluation = _read_json(folder.eval_file)
    scores: list[PhotoScore] = []
    wanted = options.photos > 0 if record.kind == "field" else options.samples
    if wanted:
        try:
            run = open_run(folder.path, device=options.device)
            if record.kind == "field":
                tell(f"rendering {options.photos} photos' cameras")
                scores = _add_photos(document, run, options.photos)
            else:
                tell("drawing samples")
                _add_samples(document, run, options.seed)
        except (StudioError, OSError) as error:
            document.notes.append(f"No new pictures: {error}")
    _add_previews(document, folder)
    document.tiles = _tiles(record, rows, scores)
    _add_figures(document, record, evaluation, scores)
    document.tables.append(_settings_table(record))
    document.tables.append(_environment_table(folder, config.studio_version))
    return document


# ---- pictures ------------------------------------------------------------------------------------------------------
def _add_photos(document: Document, run: LoadedRun, count: int) -> list[PhotoScore]:
    """Photo, render and error of some held-out photos; the errors of all on one scale."""
    split = run.scene.evaluation_split
    background = run.background if run.background is not None else torch.zeros(3)
    found: list[tuple[Tensor, Tensor, Tensor | None, PhotoScore]] = []

    def keep(photo: Photo, render: Tensor, score: PhotoScore) -> None:
        found.append((photo.composited(background), render.clamp(0, 1), photo.mask, score))

    evaluate_field(
        run.field, run.photos(split), split=split, downscale=run.config.data.downscale, limit=count, on_photo=keep
    )
    errors = [(truth - render).abs().mean(dim=-1) for truth, render, _, _ in found]
    high = max(float(error.flatten().kthvalue(max(int(0.99 * error.numel()), 1)).values) for error in errors)
    limit = next((value for value in _ERROR_LIMITS if value >= high), 1.0)
    rows = []
    for (truth, render, mask, score), error in zip(found, errors, strict=True):
        shown = colormap(error, _ERROR_MAP, (0.0, limit), valid=mask)
        rows.append(
            [
                Picture(truth, score.name),
                Picture(render, f"render: PSNR {score.psnr:.2f} dB, SSIM {score.ssim:.3f}"),
                Picture(shown, f"error: black 0, pale yellow {limit:g}"),
            ]
        )
    about = f"Photo, render, and mean absolute error over red, green and blue; split '{split}'."
    document.galleries.append(("Photos against renders", about, rows))
    return [score for _, _, _, score in found]


def _add_samples(document: Document, run: LoadedRun, seed: int) -> None:
    generator, info = run.generator, run.generator.data_info
    spec = find_plugin(run.config.plugin).spec
    if spec is not None and "caption" in spec.all_capabilities():
        return
    shape = info.sample_shape
    if shape == ():
        texts = draw_samples(generator, _TEXTS, seed=seed)
        for i, text in enumerate(texts):
            document.texts.append((f"Sample {i + 1}", str(text)[:_TEXT_LENGTH]))
        return
    condition, labels = _conditions(generator, _PICTURES if len(shape) == 3 else _POINTS)
    count = len(condition) if condition is not None else _PICTURES if len(shape) == 3 else _POINTS
    try:
        samples = draw_samples(generator, count, condition, seed=seed)
    except StudioError:
        if condition is None:
            raise
        # A model without conditions, on data that has them.
        samples, labels = draw_samples(generator, count, seed=seed), None
    assert isinstance(samples, Tensor)
    if samples.ndim == 4:
        columns = len(condition) // (info.num_classes or 1) if labels and condition is not None else None
        sheet = Picture(labelled_grid(samples, labels, columns), f"seed {seed}", lossless=True)
    elif samples.ndim == 2 and samples.shape[1] >= 2:
        points = samples[:, :2]
        sheet = Picture(scatter(points, points[:0], frame=points), f"{count:,} samples, seed {seed}", lossless=True)
    else:
        document.notes.append(f"Samples of shape {tuple(samples.shape[1:])} have no picture.")
        return
    document.galleries.append(("Samples", "", [[sheet]]))


def _conditions(generator: Generator, count: int) -> tuple[list[int] | None, list[str] | None]:
    """Every class as often, in order, where there are few enough of them."""
    info = generator.data_info
    classes = info.num_classes or 0
    if len(info.sample_shape) != 3 or not 0 < classes <= count:
        return None, None
    each = max(count // classes, 1)
    labels = [label for label in range(classes) for _ in range(each)]
    return labels, [info.class_names[label] if info.class_names else str(label) for label in labels]


def _add_previews(document: Document, folder: RunFolder) -> None:
    """How the run came to what it is: some previews, evenly taken, and their film."""
    found = sorted(folder.previews.glob("step_*.png"))
    chosen = [found[round(i * (len(found) - 1) / (_STAGES - 1))] for i in range(_STAGES)] if found else []
    rows = [
        [Picture(picture, path.stem.replace("_", " "))]
        for path in dict.fromkeys(chosen)
        if (picture := _load(path)) is not None
    ]
    if rows:
        document.galleries.append(("While training", "The same view or noise at several steps.", rows))
    texts = sorted(folder.previews.glob("step_*.txt"))
    if texts and not document.texts:
        document.texts.append((f"Preview at {texts[-1].stem}", texts[-1].read_text("utf-8", "replace")[:_TEXT_LENGTH]))
    for name in (TIMELAPSE, PREVIEW_FILM):
        film = folder.path / name
        if document.film is None and film.is_file() and film.stat().st_size <= _LARGEST_FILM:
            document.film = film.read_bytes()


def _load(path: Path) -> Tensor | None:
    try:
        with opened_picture(path) as image:
            return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0)
    except StudioError:
        return None


# ---- figures -------------------------------------------------------------------------------------------------------
def _tiles(
    record: RunRecord, rows: Sequence[dict[str, Any]], scores: Sequence[PhotoScore]
) -> list[tuple[str, str]]:  # fmt: skip
    figures = dict(record.metrics)
    where = "" if record.measured == "held out" else ", training"
    if scores and record.measured != "held out":
        figures |= {
            "psnr": sum(score.psnr for score in scores) / len(scores),
            "ssim": sum(score.ssim for score in scores) / len(scores),
        }
        where = f", {len(scores)} photos"
    tiles = [
        (
            f"{figures[name]:.2f}" if name == "psnr" else f"{figures[name]:.4g}",
            _NAMES.get(name, name.replace("_", " ")) + where,
        )
        for name in _TILES
        if name in figures
    ][:4]
    if rows and "Gaussians" in rows[-1]:
        tiles.append((show_number(float(rows[-1]["Gaussians"])), "Gaussians"))
    if not tiles and "loss" in figures:
        tiles.append((f"{figures['loss']:.4g}", "loss, training"))
    minutes, seconds = divmod(round(record.seconds), 60)
    tiles.append((f"{minutes}:{seconds:02d}", "training time"))
    tiles.append((f"{record.step:,}", "steps"))
    return tiles


def _add_figures(
    document: Document, record: RunRecord, evaluation: dict[str, Any], scores: Sequence[PhotoScore]
) -> None:  # fmt: skip
    photos = evaluation.get("photos")
    protocol = evaluation.get("protocol")
    about = "; ".join(f"{k.replace('_', ' ')}: {v}" for k, v in protocol.items()) if isinstance(protocol, dict) else ""
    if isinstance(photos, list) and photos:
        mean = evaluation.get("mean") if isinstance(evaluation.get("mean"), dict) else {}
        heads = [name for name in dict.fromkeys(k for photo in photos for k in photo) if name != "name"]
        heads = [name for name in heads if any(photo.get(name) is not None for photo in photos)]
        rows = [Row(("mean", *(_cell((mean or {}).get(name)) for name in heads)), strong=True)]
        rows += [Row((str(p.get("name")), *(_cell(p.get(name)) for name in heads))) for p in photos[:_PHOTO_ROWS]]
        names = ("photo", *(_NAMES.get(name, name) for name in heads))
        document.tables.append(("Held-out figures", about, names, rows))
    elif isinstance(evaluation.get("figures"), dict):
        floor = evaluation.get("floor") or {}
        lines = [Row((k.replace("_", " "), _cell(v), _cell(floor.get(k)))) for k, v in evaluation["figures"].items()]
        document.tables.append(("Held-out figures", about, ("figure", "value", "training data in its place"), lines))
    elif scores:
        lines = [Row((s.name, f"{s.psnr:.2f}", f"{s.ssim:.4f}", f"{s.seconds:.3f}")) for s in scores]
        heads_of_scores = ("photo", "PSNR, dB", "SSIM", "seconds")
        document.tables.append(("Figures", "Of the photos shown; `studio eval` measures all.", heads_of_scores, lines))
    elif record.metrics:
        lines = [Row((name, _cell(value))) for name, value in record.metrics.items()]
        document.tables.append(("Figures", "At the end of the training; `studio eval` measures.", ("", ""), lines))


def _settings_table(record: RunRecord) -> tuple[str, str, tuple[str, ...], list[Row]]:
    """All settings; those that are not the plugin's own defaults bold."""
    try:
        defaults = load_config_class(find_plugin(record.plugin)).preset(None).to_dict()
    except StudioError:
        defaults = {}
    rows = []
    for name, value in record.settings.items():
        known = name in defaults
        rows.append(
            Row((name, _cell(value), _cell(defaults[name]) if known else ""), known and defaults[name] != value)
        )
    return "Settings", "Bold: other than the plugin's default.", ("setting", "value", "default"), rows


def _environment_table(folder: RunFolder, version: str) -> tuple[str, str, tuple[str, ...], list[Row]]:
    environment = _read_json(folder.environment_file)
    rows = [Row(("studio", version))]
    for name, value in environment.items():
        if isinstance(value, dict):
            rows += [Row((str(k), str(v))) for k, v in value.items() if v is not None]
        elif isinstance(value, list):
            rows.append(Row((name, " ".join(map(str, value)))))
        else:
            rows.append(Row((name, str(value))))
    return "Environment", "", ("", ""), rows


def _read_json(path: Path) -> dict[str, Any]:
    """An object, or an empty one where there is none that can be read."""
    try:
        return read_json_object(path)
    except StudioError:
        return {}


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
