"""The search for undefined names sees code and overlooks the shapes of jaxtyping."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "undefined_names.py"

SOURCE = '''\
from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def shapes(x: Float[Tensor, "*batch height width 3"], y: Float[Tensor, "n m"]) -> Float[Tensor, " k"]:
    """not_a_name"""
    return lost_here + f"{lost_there}"


def annotated(x: LostType) -> None: ...


on_purpose = lost_knowingly  # type: ignore[name-defined]
'''


def test_names_in_code_are_found_and_shapes_are_not(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(SOURCE)
    done = subprocess.run([sys.executable, str(SCRIPT), str(file)], capture_output=True, text=True)
    assert done.returncode == 1
    lines = [line.removeprefix(str(file)) for line in done.stdout.splitlines()]
    assert [line.partition(": ")[0] for line in lines] == [":9:12", ":9:27", ":12:18"]
    assert all(name in line for name, line in zip(("lost_here", "lost_there", "LostType"), lines, strict=True))
    file.write_text(SOURCE.replace('lost_here + f"{lost_there}"', "x").replace("LostType", "Tensor"))
    assert subprocess.run([sys.executable, str(SCRIPT), str(file)], capture_output=True).returncode == 0
