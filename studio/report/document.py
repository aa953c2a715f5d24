"""The page itself: HTML of curves, pictures and tables. Every text is escaped; nothing is fetched, no script runs."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from studio.export.pictures import to_uint8
from studio.files import atomic_write
from studio.report.curves import CurvePanel, svg_of

_QUALITY = 90
_WIDEST = 720


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with a line below it."""

    pixels: Float[Tensor, "h w 3"]
    caption: str
    lossless: bool = False
    """PNG instead of JPEG, and shown pixel by pixel: small drawings and samples."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    cells: tuple[str, ...]
    strong: bool = False


@dataclass
class Document:
    """What a report says, from top to bottom. All texts are plain texts."""

    title: str
    subtitle: str
    tiles: list[tuple[str, str]] = field(default_factory=list)
    """The most important figures: a value and what it is."""
    notes: list[str] = field(default_factory=list)
    panels: list[CurvePanel] = field(default_factory=list)
    galleries: list[tuple[str, str, list[list[Picture]]]] = field(default_factory=list)
    """A title, a line about it, and rows of pictures."""
    texts: list[tuple[str, str]] = field(default_factory=list)
    """A title and a text that keeps its line breaks."""
    film: bytes | None = None
    """An MP4."""
    tables: list[tuple[str, str, tuple[str, ...], list[Row]]] = field(default_factory=list)
    """A title, a line about it, the heads of the columns, and the rows; numbers stand right from the second column."""
    footer: str = ""


def write_document(path: str | os.PathLike[str], document: Document) -> None:
    """Write the page; raises StudioError where the file cannot be written."""
    style = (resources.files("studio.report") / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{digest}'; base-uri 'none'"
    head = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(document.title)}</title>\n<style>{style}</style>\n</head>\n"
    )
    with atomic_write(path, "w") as file:
        file.write(head + "<body>\n<main>\n")
        for part in _parts(document):
            file.write(part + "\n")
        file.write("</main>\n</body>\n</html>\n")


def _parts(document: Document) -> list[str]:
    parts = [f"<header><h1>{escape(document.title)}</h1><p>{escape(document.subtitle)}</p></header>"]
    if document.tiles:
        tiles = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for value, what in document.tiles)
        parts.append(f'<dl class="tiles">{tiles}</dl>')
    parts += [f'<p class="note">{escape(note)}</p>' for note in document.notes]
    if document.panels:
        parts.append(_section("Training", "", f'<div class="panels">{"".join(map(svg_of, document.panels))}</div>'))
    for title, about, rows in document.galleries:
        parts.append(_section(title, about, "".join(map(_pictures, rows))))
    for title, text in document.texts:
        parts.append(_section(title, "", f"<pre>{escape(text)}</pre>"))
    if document.film is not None:
        source = "data:video/mp4;base64," + base64.b64encode(document.film).decode("ascii")
        player = f'<video controls loop muted playsinline preload="metadata" src="{source}"></video>'
        parts.append(_section("Film of the training", "", player))
    for title, about, heads, rows_of_table in document.tables:
        parts.append(_section(title, about, _table(heads, rows_of_table)))
    parts.append(f"<footer>{escape(document.footer)}</footer>")
    return parts


def _section(title: str, about: str, body: str) -> str:
    line = f"<p>{escape(about)}</p>" if about else ""
    return f"<section><h2>{escape(title)}</h2>{line}{body}</section>"


def _pictures(row: Sequence[Picture]) -> str:
    cells = "".join(f"<figure>{_image(p)}<figcaption>{escape(p.caption)}</figcaption></figure>" for p in row)
    return f'<div class="row n{min(len(row), 4)}">{cells}</div>'


def _image(picture: Picture) -> str:
    image = Image.fromarray(to_uint8(picture.pixels))
    if image.width > _WIDEST and not picture.lossless:
        image = image.resize((_WIDEST, max(round(image.height * _WIDEST / image.width), 1)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if picture.lossless:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=_QUALITY)
    kind = "png" if picture.lossless else "jpeg"
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    sharp = ' class="sharp"' if picture.lossless else ""
    return (
        f'<img{sharp} alt="{escape(picture.caption)}" width="{image.width}" height="{image.height}" '
        f'src="data:image/{kind};base64,{data}">'
    )


def _table(heads: Sequence[str], rows: Sequence[Row]) -> str:
    head = f"<thead><tr>{''.join(f'<th>{escape(text)}</th>' for text in heads)}</tr></thead>" if any(heads) else ""
    lines = []
    for row in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row.cells[1:])
        mark = ' class="strong"' if row.strong else ""
        lines.append(f'<tr{mark}><th scope="row">{escape(row.cells[0])}</th>{cells}</tr>')
    return f'<div class="scroll"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'
