"""From a folder of photos or a video to a scene with poses."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from studio import __version__
from studio.devices.threads import plan_threads
from studio.errors import StudioError
from studio.files import sync_folder
from studio.reading.files import is_file, is_folder
from studio.reconstruction.colmap import LensModel, Model, Quality, Workplace, require_pycolmap
from studio.reconstruction.pairs import Matching, choose_matching, photo_pairs
from studio.reconstruction.photos import (
    MINIMUM,
    SourcePhoto,
    find_photos,
    group_by_lens,
    place_photo,
    prepare_photo,
)
from studio.reconstruction.report import FILE, ProcessReport, judge_photos, summarize_reasons
from studio.reconstruction.video_frames import (
    choose_frames,
    count_frames,
    frame_sharpness,
    write_frames,
)
from studio.scene.decode import VIDEO_SUFFIXES

_BATCH = 4
"""Photos or pairs a thread, between two steps of a progress bar: each call opens the database anew."""


@dataclass(frozen=True)
class ProcessOptions:
    """What a user chooses."""

    frames: int = 100
    """Frames to take of a video."""
    matching: Matching = "auto"
    """exhaustive: all pairs; sequential: neighbours in the order of names; auto: sequential for long videos."""
    quality: Quality = "default"
    """Size of the photos and number of features that are looked at."""
    lens: LensModel = "radial"
    """Model of the lens that is calibrated: radial (one coefficient), opencv (four), fisheye."""
    max_size: int | None = None
    """Longest side of the photos in the scene, pixels; None keeps their size."""
    seed: int = 0
    threads: int | None = None
    """None: as many as the studio computes with."""
    overwrite: bool = False
    """Replace a scene that was made in this way before."""


class Watcher(Protocol):
    """Shows the progress of a stage of known length: a context manager that gives what to call after each piece."""

    def __call__(self, title: str, total: int) -> AbstractContextManager[Callable[[], object]]: ...


def _unwatched(title: str, total: int) -> AbstractContextManager[Callable[[], object]]:
    return nullcontext(lambda: None)


def process(
    source: Path, output: Path, options: ProcessOptions | None = None, watch: Watcher = _unwatched
) -> ProcessReport:
    """Find the poses of photos, and write them as a scene of pinhole photos with a COLMAP model.

    Args:
        source: A folder of photos, or a video.
        output: The scene's folder: ``images/``, ``sparse/0/`` and ``registration.json``. It appears whole or not at
            all.
        options: Choices; default: `ProcessOptions()`.
        watch: Shows progress.

    Returns:
        What registered and what did not; also written to ``registration.json``.

    Raises:
        StudioError: Bad input, an output folder that exists, no photo whose pose could be found, or pycolmap missing.
    """
    options = options or ProcessOptions()
    _check(source, output, options)
    require_pycolmap()
    with _whole_folder(output, options.overwrite) as folder:
        work = folder / "work"
        given = work / "given"
        given.mkdir(parents=True)
        total: int | None = None
        if is_folder(source):
            files = find_photos(source)
        else:
            files, total = _frames_of(source, given, options.frames, watch)
        photos = _prepare(files, given, watch)
        report = _reconstruct(source, photos, folder, work, total, options, watch)
        shutil.rmtree(work)
        report.write(folder)
    return report


def _check(source: Path, output: Path, options: ProcessOptions) -> None:
    if not source.exists():
        raise StudioError(f"{source}: there is no such file or folder.", fix="Name a folder of photos, or a video.")
    if is_file(source) and source.suffix.lower() not in VIDEO_SUFFIXES:
        raise StudioError(
            f"{source}: is neither a folder of photos nor a video ({', '.join(VIDEO_SUFFIXES)}).",
            fix="Put several photos into a folder, and name that.",
        )
    if options.frames < MINIMUM:
        raise StudioError(f"frames: {options.frames} is too few for poses.", fix=f"Give --frames {MINIMUM} or more.")
    if options.max_size is not None and options.max_size < 16:
        raise StudioError(f"max_size: {options.max_size} pixels is no photo.", fix="Give --max-size 16 or more.")
    target, given = output.resolve(), source.resolve()
    if target == given or target in given.parents:
        raise StudioError(f"{output}: holds the photos themselves.", fix="Give another folder with --output.")
    if is_file(output):
        raise StudioError(f"{output}: is a file, not a folder.", fix="Give a folder with --output.")
    if not is_folder(output) or not any(output.iterdir()):
        return
    if not options.overwrite:
        raise StudioError(f"{output}: is there already.", fix="Give another folder, or --overwrite to replace it.")
    if not is_file(output / FILE):
        raise StudioError(
            f"{output}: was not made by this command (it has no {FILE}), so it is not replaced.",
            fix="Give another folder with --output, or delete it yourself.",
        )


@contextmanager
def _whole_folder(output: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its name when the block ends well, and goes away when it fails."""
    target = output.resolve()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.partial")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise StudioError(
            f"{output}: cannot be written ({error.strerror or error}).", fix="Check the permissions of its folder."
        ) from error
    try:
        yield temporary
        replaced = None
        if target.exists():
            if overwrite and any(target.iterdir()):
                replaced = target.with_name(f".{target.name}.{secrets.token_hex(6)}.replaced")
                target.rename(replaced)
            else:
                target.rmdir()
        temporary.rename(target)
        sync_folder(target.parent)
        if replaced is not None:
            shutil.rmtree(replaced)
    except OSError as error:
        raise StudioError(
            f"{output}: cannot be written ({error.strerror or error}).", fix="Check the free space and permissions."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _frames_of(video: Path, folder: Path, count: int, watch: Watcher) -> tuple[list[Path], int]:
    with watch("looking for sharp frames", count_frames(video)) as advance:
        sharpness = frame_sharpness(video, advance)
    if len(sharpness) < MINIMUM:
        raise StudioError(
            f"{video}: has only {len(sharpness)} frame(s).", fix=f"Give a video of {MINIMUM} frames or more."
        )
    return write_frames(video, choose_frames(sharpness, count), folder), len(sharpness)


def _prepare(files: Sequence[Path], copies: Path, watch: Watcher) -> list[SourcePhoto]:
    photos = []
    with watch("reading photos", len(files)) as advance:
        for file in files:
            photos.append(prepare_photo(file, copies))
            advance()
    return photos


def _reconstruct(
    source: Path,
    photos: Sequence[SourcePhoto],
    folder: Path,
    work: Path,
    video_frames: int | None,
    options: ProcessOptions,
    watch: Watcher,
) -> ProcessReport:
    threads = options.threads or plan_threads().count
    colmap = Workplace(work / "colmap", quality=options.quality, seed=options.seed, threads=threads)
    for number, photo in enumerate(photos):
        place_photo(photo, colmap.place_for(number, photo.stands_in.suffix.lower()))
    groups = group_by_lens(photos)
    colmap.add_photos(groups, options.lens, lambda number: photos[number].path)
    numbers = list(range(len(photos)))
    _in_batches("finding features", numbers, threads, colmap.find_features, watch)
    matching = choose_matching(options.matching, len(photos), is_video=video_frames is not None)
    pairs = photo_pairs(len(photos), matching)
    _in_batches(f"matching ({matching})", pairs, threads * 4, colmap.match, watch)
    models = _map(colmap, len(photos), watch)
    known = colmap.statistics()
    names = [photo.name for photo in photos]
    results = judge_photos(names, known, models)
    if not models:
        raise StudioError(
            f"{source}: none of the {len(photos)} photos got a pose ({summarize_reasons(results)}).",
            fix="Take sharp photos that overlap by two thirds, from different points, of a place with texture.",
        )
    with watch("undistorting", 1) as advance:
        colmap.undistort(models[0], {n: _scene_name(photos[n]) for n in numbers}, folder, options.max_size)
        advance()
    return ProcessReport(
        source=str(source),
        kind="photos" if video_frames is None else "video",
        photos=results,
        cameras=tuple(str(lens) for lens in groups),
        models=tuple(len(model.photos) for model in models),
        points=models[0].points,
        reprojection_error=models[0].reprojection_error,
        pairs=len(pairs),
        matched_pairs=len(known.matches),
        video_frames=video_frames,
        settings={**asdict(options), "matching": matching, "threads": threads, "studio": __version__, **_versions()},
        notes=_notes(photos, models, len(groups)),
    )


def _in_batches(
    title: str, items: Sequence[Any], size: int, work: Callable[[Sequence[Any]], None], watch: Watcher
) -> None:
    size = max(1, size)
    with watch(title, len(items)) as advance:
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            work(batch)
            for _ in batch:
                advance()


def _map(colmap: Workplace, count: int, watch: Watcher) -> list[Model]:
    done = 0
    with watch("mapping", count) as advance:

        def registered() -> None:
            # Smaller models, which are made afterwards, count photos again.
            nonlocal done
            done += 1
            if done <= count:
                advance()

        return colmap.map(registered)


def _scene_name(photo: SourcePhoto) -> str:
    """File name in the scene: the photo's own; of one that had to be copied, with the ending of the copy."""
    return photo.name if photo.stands_in == photo.path else photo.stands_in.name


def _notes(photos: Sequence[SourcePhoto], models: Sequence[Model], cameras: int) -> tuple[str, ...]:
    notes = []
    if cameras > 1:
        notes.append(f"{cameras} cameras are told apart by size and EXIF, each with a calibration of its own")
    if len(models) > 1:
        others = ", ".join(str(len(model.photos)) for model in models[1:])
        notes.append(
            f"{len(models)} models that do not connect: the largest, with {len(models[0].photos)} photos, is kept; "
            f"others have {others}"
        )
    transparent = sum(photo.has_alpha for photo in photos)
    if transparent:
        notes.append(f"{transparent} transparent photos were put on white")
    return tuple(notes)


def _versions() -> dict[str, str]:
    return {"pycolmap": str(require_pycolmap().__version__)}
