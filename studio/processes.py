"""Python processes that the studio starts beside its own.

Python puts the working folder in front of everything it imports when it is started with ``-c`` or ``-m``: a `json.py`
that lies there would be run in place of Python's. `clean_python` starts it without, on every version (``-P`` does the
same, but is new in 3.11, and ``-I`` also hides what PYTHONPATH and ``pip install --user`` bring).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The folder that this very studio was imported from."""

_START = """\
import sys
sys.path[:] = [place for place in sys.path if place]
sys.path += [place for place in {path!r} if place not in sys.path]
"""
_MODULE = """\
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
_FLAGS = (("isolated", "-I"), ("ignore_environment", "-E"), ("no_user_site", "-s"))


def clean_python(
    *arguments: str,
    module: str | None = None,
    code: str | None = None,
    path: Sequence[str] = (),
    bytecode: bool = True,
) -> list[str]:
    """The command line of a Python process that imports nothing from the working folder; give it `clean_environment`.

    It finds what this Python finds, and this very studio.

    Args:
        arguments: ``sys.argv[1:]`` of the process.
        module: Run as with ``-m``. Either this or `code` is given.
        code: Run as with ``-c``.
        path: Folders to look for modules in after all others; empty ones are left out.
        bytecode: Whether it writes ``__pycache__``.
    """
    if (module is None) == (code is None):
        raise ValueError("clean_python: give either module or code")
    places = [place for place in (*path, _ROOT) if place]
    start = _START.format(path=places) + (_MODULE if code is None else code)
    flags = [flag for name, flag in _FLAGS if getattr(sys.flags, name)]
    asked = [module] if module is not None else []
    return [sys.executable, *flags, *([] if bytecode else ["-B"]), "-c", start, *asked, *arguments]


def clean_environment() -> dict[str, str]:
    """This process's environment for a child; an empty part of PYTHONPATH, which means the working folder, is gone.

    A folder that PYTHONPATH names stays: somebody asked for it.
    """
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    if "PYTHONPATH" in environment:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, environment["PYTHONPATH"].split(os.pathsep)))
        if not environment["PYTHONPATH"]:
            del environment["PYTHONPATH"]
    return environment
