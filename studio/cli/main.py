"""Entry of the command line: picks the command's module by hand, and turns errors into messages and exit codes."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import time
from collections.abc import Sequence

from studio import __version__
from studio.cli.clock import process_start
from studio.errors import StudioError

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("studio.cli.train", "Train a plugin on posed photos or a data set; resume a run."),
    "view": ("studio.cli.view", "Look at a run, a splat file or posed photos in the browser."),
    "render": ("studio.cli.render", "Render novel views of a trained scene: video or pictures."),
    "sample": ("studio.cli.sample", "Draw samples of a trained generator: pictures, points, text."),
    "interpolate": ("studio.cli.interpolate", "Walk between two samples of a generator, beside the plain blend."),
    "reconstruct": ("studio.cli.reconstruct", "Send pictures through a generator's latents and back."),
    "edit": ("studio.cli.edit", "Change a picture: inpaint, redraw, colourise, enlarge."),
    "caption": ("studio.cli.caption", "Describe pictures, or novel views of a trained scene."),
    "eval": ("studio.cli.evaluate", "Measure a trained run on held-out data."),
    "compare": ("studio.cli.compare", "Put runs side by side: scenes in a video, figures of generators."),
    "inspect": ("studio.cli.inspect", "Plot what lies along the ray of a pixel, or what a text model attends to."),
    "export": ("studio.cli.export", "Write a trained scene in another program's format."),
    "runs": ("studio.cli.runs", "List, filter, compare and delete runs."),
    "report": ("studio.cli.report", "Write one page about a run: curves, pictures, figures, settings."),
    "data": ("studio.cli.data", "Look into a folder of posed photos: studio data info PATH."),
    "plugins": ("studio.cli.plugins", "List the plugins; start, check or debug one of your own."),
    "info": ("studio.cli.info", "Show a plugin's networks, options and presets."),
    "doctor": ("studio.cli.doctor", "Show devices, memory and optional packages."),
}
"""Command -> its module and one line of help. The module has ``main(argv, started) -> exit code``."""

INTERRUPTED = 130
BROKEN_PIPE = 141
EXAMPLES = (
    "studio train splat scenes/tabletop --preset quick",
    "studio render runs --path orbit --output orbit.mp4",
    "studio eval runs",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; those of this process when None.

    Returns:
        The exit code: 0 done, 1 an unexpected error or an unhealthy `doctor`, 2 bad input, 130 interrupted.
    """
    started = process_start() if argv is None else time.perf_counter()
    # GNU OpenMP waits for other threads by spinning for milliseconds, which on a busy machine keeps them from running.
    # It reads this when it is loaded, so before torch and the kernels are.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments, started)
        sys.stdout.flush()
        return code
    except StudioError as error:
        _say_error(str(error))
        return error.exit_code
    except MemoryError:
        _say_error("There is not enough memory for this. Close other programs, or give less data or smaller pictures.")
        return StudioError.exit_code
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) is gone; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        _say(str(stop.code))
        return 1
    except Exception:
        import traceback

        traceback.print_exc()
        _say("This is a fault of the program or of a plugin, not of your input. `studio doctor` may tell more.")
        return 1


def _dispatch(arguments: list[str], started: float) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _print_help()
        return 0
    name = arguments[0]
    if name in ("--version", "-V", "version"):
        print(f"studio {__version__}")
        return 0
    if name not in COMMANDS:
        what = "option" if name.startswith("-") else "command"
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        raise StudioError(
            f"There is no {what} '{name}'.",
            fix=f"Did you mean 'studio {near[0]}'?" if near else f"Commands: {', '.join(COMMANDS)}.",
        )
    module = importlib.import_module(COMMANDS[name][0])
    return int(module.main(arguments[1:], started))


def _print_help() -> None:
    from rich import box
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text.assemble("usage: ", ("studio", "bold"), " COMMAND [OPTIONS]\n"))
    console.print("Train 3D scenes and generators from your data, render them, measure them.\n")
    for title, rows in (
        ("commands", [(name, summary) for name, (_, summary) in COMMANDS.items()]),
        ("options", [("-h, --help", "Show this help; COMMAND --help that of a command."), ("--version", "Show it.")]),
    ):
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold cyan", no_wrap=True, min_width=10)
        table.add_column()
        for row in rows:
            table.add_row(*row)
        console.print(Panel(table, title=title, title_align="left", box=box.ROUNDED, border_style="dim"))
    console.print("Examples:")
    for example in EXAMPLES:
        console.print(f"  {example}", style="cyan", soft_wrap=True)


def _say_error(text: str) -> None:
    colored = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    _say(f"\x1b[1;31merror:\x1b[0m {text}" if colored else f"error: {text}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
