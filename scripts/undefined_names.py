"""Find names that are defined nowhere.

    python scripts/undefined_names.py FILE_OR_FOLDER...

ruff's F821 and mypy's name-defined are off, since they take the shapes of jaxtyping annotations ("b h w") for names.
This runs F821 all the same, and leaves out what stands inside of a string, and lines with "type: ignore[name-defined]".
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Sequence
from pathlib import Path

Span = tuple[tuple[int, int], tuple[int, int]]


def undefined_names(paths: Sequence[str]) -> list[str]:
    """'file:line:column: message' of each; lines and columns count from 1."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "--output-format", "json"]
    done = subprocess.run([*command, *paths], capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    sources: dict[str, tuple[list[str], list[Span]]] = {}
    found = []
    for hit in json.loads(done.stdout):
        file = hit["filename"]
        place = (hit["location"]["row"], hit["location"]["column"])
        if file not in sources:
            text = Path(file).read_text(encoding="utf-8")
            sources[file] = text.splitlines(), string_spans(text)
        lines, strings = sources[file]
        on_purpose = "ignore[name-defined]" in lines[place[0] - 1]
        if not on_purpose and not any(start <= place < end for start, end in strings):
            found.append(f"{file}:{place[0]}:{place[1]}: {hit['message']}")
    return found


def string_spans(source: str) -> list[Span]:
    """Where the plain strings are; what stands in the braces of an f-string is code."""
    spans = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        # Before Python 3.12 an f-string is such a token, too.
        if token.type == tokenize.STRING and not re.match("[rR]?[fF]", token.string):
            (row, column), (end_row, end_column) = token.start, token.end
            spans.append(((row, column + 1), (end_row, end_column + 1)))
    return spans


if __name__ == "__main__":
    hits = undefined_names(sys.argv[1:])
    print("\n".join(hits) or "No undefined names.")
    sys.exit(1 if hits else 0)
