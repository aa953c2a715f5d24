"""The door of the command `studio` and of `python -m studio`: leaves the working folder out, then imports.

Only `os` and `sys` are used here, which Python has loaded by itself. A folder that somebody works in may hold a
`json.py` or a `numpy/`, and the studio must run neither.
"""

import os
import sys


def main() -> int:
    """Run the command that this process was started for, and return its exit code."""
    _leave_working_folder()
    from studio.cli.main import main as run

    return run()


def _leave_working_folder() -> None:
    try:
        here = os.getcwd()
    except OSError:  # it was deleted, so nothing can be imported from it
        here = ""
    # First stands the folder of `python -m studio`, which is the working folder, or that of the script `studio`.
    script = os.path.dirname(os.path.realpath(sys.argv[0]))
    if sys.path and sys.path[0] in ("", here, script) and not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    # An empty part of PYTHONPATH means the working folder too; `export PYTHONPATH=$PYTHONPATH:...` leaves one.
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if len(named) > 1 and "" in named:
        kept = [place for place in named if place]
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
        if here not in [os.path.abspath(place) for place in kept]:
            sys.path[:] = [place for place in sys.path if place not in ("", here)]
    # For whatever libraries start; Python 3.10 does not know it.
    os.environ["PYTHONSAFEPATH"] = "1"


if __name__ == "__main__":
    raise SystemExit(main())
