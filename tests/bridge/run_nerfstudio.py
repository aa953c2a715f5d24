"""Run one of nerfstudio's commands in this environment: ``python run_nerfstudio.py ns-train studio-splat ...``."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

from torchvision_operators import register_missing


def main() -> None:
    register_missing()
    (command,) = entry_points(group="console_scripts", name=sys.argv[1])
    sys.argv = sys.argv[1:]
    command.load()()


if __name__ == "__main__":
    main()
