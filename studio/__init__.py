"""neural-studio: a plugin-based studio for 3D neural rendering and generation.

The same in a notebook as on the command line::

    import studio

    scene = studio.load_scene("scenes/tabletop")
    run = studio.train("splat", "scenes/tabletop", preset="quick", observers=[studio.ProgressLine()])
    print(run.evaluate().psnr)
    with studio.VideoWriter("orbit.mp4") as video:
        for view in run.render(studio.orbit_of(run.cameras(), 120)):
            video.write(view["rgb"])
    again = studio.open_run(run.path)

Importing this package imports no torch; each name is loaded when it is first used.
"""

# Nothing is imported here: `python -m studio` reads this file while modules are still looked for in the working folder
# (see `studio.__main__`). Type checkers know the name.
TYPE_CHECKING = False

__version__ = "0.1.0"

if TYPE_CHECKING:
    from typing import Any

    from studio.cameras import Cameras, interpolate, orbit_of, read_camera_path, spiral_of
    from studio.datasets import load_dataset
    from studio.errors import StudioError
    from studio.export.pictures import save_picture
    from studio.export.video import VideoWriter
    from studio.metrics import EvaluationReport
    from studio.readers import load_scene
    from studio.registry import list_plugins
    from studio.scene import Scene
    from studio.training.loaded import LoadedRun, open_run
    from studio.training.observers import ProgressLine
    from studio.training.start import TrainOptions, train

_HOMES = {
    "Cameras": "studio.cameras",
    "EvaluationReport": "studio.metrics",
    "LoadedRun": "studio.training.loaded",
    "ProgressLine": "studio.training.observers",
    "Scene": "studio.scene",
    "StudioError": "studio.errors",
    "TrainOptions": "studio.training.start",
    "VideoWriter": "studio.export.video",
    "interpolate": "studio.cameras",
    "list_plugins": "studio.registry",
    "load_dataset": "studio.datasets",
    "load_scene": "studio.readers",
    "open_run": "studio.training.loaded",
    "orbit_of": "studio.cameras",
    "read_camera_path": "studio.cameras",
    "save_picture": "studio.export.pictures",
    "spiral_of": "studio.cameras",
    "train": "studio.training.start",
}

__all__ = [
    "Cameras",
    "EvaluationReport",
    "LoadedRun",
    "ProgressLine",
    "Scene",
    "StudioError",
    "TrainOptions",
    "VideoWriter",
    "__version__",
    "interpolate",
    "list_plugins",
    "load_dataset",
    "load_scene",
    "open_run",
    "orbit_of",
    "read_camera_path",
    "save_picture",
    "spiral_of",
    "train",
]


def __getattr__(name: str) -> "Any":
    if name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
