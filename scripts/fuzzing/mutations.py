"""Damage: what files look like that were cut off, edited by hand, or made to do harm.

Each mutation knows the structure of its format, so that what it changes is reached: an archive is packed again around
a damaged member, a PNG gets its checksums right, a JSON field gets a value of another kind.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

_EDGES = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    127,
    128,
    255,
    256,
    1023,
    4095,
    32767,
    32768,
    65535,
    65536,
    1 << 20,
    (1 << 24) - 1,
)
_WIDE = (*_EDGES, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 48, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


class Raw:
    """JSON text that `json` itself would not write."""

    def __init__(self, text: str) -> None:
        self.text = text


_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e-320, 1e308, -1e308, 1e16, 1e20, 65536, 2**31, 2**32, 2**63, -(2**63),
    2**64, 10**9, "", " ", "x", "0", "nan", "../x", "../../../../etc/passwd", "/", ".", "..", "/dev/zero", "C:\\x",
    "a\x00b", "\n", "\u2028", "\u202e", "🐶", "x" * 300, "y" * 5000, "a/" * 200, [], {}, [[]], [None], [1, 2, 3],
    [0.0] * 16, {"a": 1}, Raw("NaN"),
    Raw("Infinity"), Raw("-Infinity"), Raw("1" + "0" * 400), Raw("-1" + "0" * 400), Raw("1e999"),
    Raw("9" * 5000), Raw("[" * 40 + "]" * 40), Raw("[" * 200 + "]" * 200), Raw("[" * 5000), Raw('{"a":' * 3000),
    Raw('"\\ud800"'), Raw('"\\u0000"'), Raw('{"a":1,"a":2}'), Raw("[1,]"), Raw("'x'"), Raw("00"),
)  # fmt: skip
_TOKENS = (
    "", "0", "-1", "1", "2", "1e308", "1e-320", "1e999", "nan", "inf", "-inf", "NaN", "9" * 30, "9" * 400, "9" * 5000,
    "4294967296", "18446744073709551616", "0x10", "1_0", "٣", "x", "\u2028", "\x00", "\x1c", "#", "[", "{", "[[[[[[",
    "&a", "*a", "!!python/object:os.system", "!!binary aGk=", "2020-99-99",
    "1:1:1:1", "1:" * 300 + "1", "~", ".nan", ".inf",
    "<<", "- - - -", "---", "...", "? ", "|", ">", "%YAML 1.1", "\t", "element vertex 99999999999",
    "property list uchar int x",
    "property float x", "end_header", "element chunk 3", "comment", "ascii", "binary_big_endian", "double", "uchar",
)  # fmt: skip


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four changes of bytes: flips, edges of integers, pieces removed, doubled, or put elsewhere; cuts."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind = rng.randrange(9)
        at = rng.randrange(len(out) + 1)
        # Headers matter more than what follows them.
        if rng.random() < 0.5:
            at = min(at, rng.randrange(64))
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = rng.randrange(256)
        elif kind == 2:
            layout = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
            value = rng.choice(_WIDE) & ((1 << 8 * struct.calcsize(layout)) - 1)
            out[at : at + struct.calcsize(layout)] = struct.pack(layout, value)
        elif kind == 3:
            number = rng.choice((float("nan"), float("inf"), 1e308, -1.0, 0.0, 1e-320, 3.5e38))
            out[at : at + 8] = struct.pack("<d", number)
        elif kind == 4:
            del out[at : at + rng.choice((1, 2, 8, 64, 1024))]
        elif kind == 5:
            piece = out[at : at + rng.choice((1, 4, 16, 256))]
            out[at:at] = piece * rng.choice((1, 2, 50))
        elif kind == 6:
            del out[at:]
        elif kind == 7:
            out[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 2, 7, 40))))
        else:
            out[at : at + rng.choice((4, 16))] = rng.choice((b"\0", b"\xff", b"\x80")) * rng.choice((4, 16))
    return bytes(out)


def damage_text(data: bytes, rng: random.Random) -> bytes:
    """Words and lines changed; sometimes the bytes or the encoding."""
    if rng.random() < 0.15:
        return damage_bytes(data, rng)
    if rng.random() < 0.03:
        text = data.decode("utf-8", "replace")
        return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32", "latin-1")), "replace")
    pieces = re.split(rb"(\s+|[:,\[\]{}=])", data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(pieces))
        kind = rng.randrange(6)
        if kind <= 2:
            pieces[at] = rng.choice(_TOKENS).encode("utf-8", "surrogateescape")
        elif kind == 3:
            del pieces[at : at + rng.choice((1, 2, 9))]
            pieces = pieces or [b""]
        elif kind == 4:
            pieces[at:at] = pieces[at : at + rng.choice((1, 3, 12))] * rng.choice((1, 3, 30))
        else:
            other = rng.randrange(len(pieces))
            pieces[at], pieces[other] = pieces[other], pieces[at]
    return b"".join(pieces)


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """Fields replaced by values of all kinds, removed, doubled, exchanged; sometimes only words or bytes."""
    if rng.random() < 0.1:
        return damage_text(data, rng)
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return damage_bytes(data, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _damage_tree(tree, rng)
    try:
        return _dump(tree).encode("utf-8", "surrogatepass")
    except RecursionError:
        return damage_bytes(data, rng)


def damage_lines(data: bytes, rng: random.Random) -> bytes:
    """One JSON object a line."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = damage_json(lines[at], rng) if rng.random() < 0.8 else damage_bytes(lines[at], rng)
    if rng.random() < 0.1:
        lines[at:at] = [lines[rng.randrange(len(lines))]] * rng.choice((1, 20))
    return b"\n".join(lines)


def damage_gzip(inner: Callable[[bytes, random.Random], bytes]) -> Callable[[bytes, random.Random], bytes]:
    """What is packed, packed again; or the stream itself."""

    def damage(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return damage_bytes(data, rng)
        try:
            plain = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            return damage_bytes(data, rng)
        if rng.random() < 0.001:
            plain += b"\0" * (80 << 20)
        packed = gzip.compress(inner(plain, rng), 1)
        return packed + (packed if rng.random() < 0.05 else b"")

    return damage


def damage_zip(
    member: Callable[[str], Callable[[bytes, random.Random], bytes]],
) -> Callable[[bytes, random.Random], bytes]:
    """A member damaged, or renamed, doubled, removed, and the archive packed again; or the archive's own bytes.

    Args:
        member: The mutation for a member of this name.
    """

    def damage(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.35:
            return _damage_directory(data, rng) if rng.random() < 0.6 else damage_bytes(data, rng)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = [(name, archive.read(name)) for name in archive.namelist()]
        except Exception:
            return damage_bytes(data, rng)
        if not members:
            return damage_bytes(data, rng)
        at = rng.randrange(len(members))
        name, content = members[at]
        kind = rng.randrange(10)
        if kind <= 6:
            content = member(name)(content, rng)
        elif kind == 7:
            name = rng.choice(
                ("../x", "/x", "x" * 300, " ", "a/", "x.npy", "y.npy", "META-INF/x", "é", "a\\b", "con:x", name)
            )
        elif kind == 8:
            content = b"\0" * rng.choice((1, 1 << 10, 1 << 20 if rng.random() < 0.2 else 9))
            if rng.random() < 0.005:
                content = b"\0" * (70 << 20)
        else:
            members.append((name, content))
        members[at] = (name, content)
        if rng.random() < 0.1:
            del members[rng.randrange(len(members))]
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, content in members:
                method = rng.choice(
                    (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED)
                )
                if rng.random() < 0.01:
                    method = rng.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
                archive.writestr(name, content, method)
        return out.getvalue()

    return damage


def damage_npy(data: bytes, rng: random.Random) -> bytes:
    """The header's fields changed, its length kept right; or bytes."""
    if rng.random() < 0.3 or len(data) < 10:
        return damage_bytes(data, rng)
    length = int.from_bytes(data[8:10], "little")
    header, rest = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    replacements = (
        (r"'descr': '[^']*'", rng.choice((
            "'descr': '|O'", "'descr': '<f8'", "'descr': '<i8'", "'descr': '>u2'", "'descr': '|b1'", "'descr': '<U9'",
            "'descr': '<U999999999'", "'descr': '<M8[ns]'", "'descr': '|V8'", "'descr': 'f4,f4'",
            "'descr': [('a', '<f4')]",
            "'descr': '<f16'", "'descr': '<c8'", "'descr': ''", "'descr': 5", "'descr': '(99999999,)f8'",
            "'descr': '<f2'",
        ))),
        (r"'shape': \([^)]*\)", rng.choice((
            "'shape': ()", "'shape': (0,)", "'shape': (-1,)", "'shape': (99999999999,)",
            "'shape': (65536, 65536, 65536)",
            "'shape': (2**9,)", "'shape': (1.5,)", "'shape': (True,)", "'shape': 5", "'shape': " + "(" * 90 + ")" * 90,
            "'shape': (" + "1, " * 40 + ")", "'shape': (0, 99999999999999)", "'shape': (" + "9" * 5000 + ",)",
            "'shape': (20, 17)", "'shape': (12,)", "'shape': (3, 4)",
        ))),
        (r"'fortran_order': \w+", rng.choice(("'fortran_order': True", "'fortran_order': 0", "'fortran_order': None"))),
        (r"\{", rng.choice(("", "{{", "{'x': 1, ", "[", "-" * 500 + "{"))),
    )  # fmt: skip
    pattern, new = rng.choice(replacements)
    header = re.sub(pattern, lambda _: new, header, count=1)
    if rng.random() < 0.1:
        rest = damage_bytes(rest, rng)
    raw = header.encode("latin-1")
    return data[:8] + (len(raw) & 0xFFFF).to_bytes(2, "little") + raw + rest


def damage_png(data: bytes, rng: random.Random) -> bytes:
    """Chunks changed with right checksums; or bytes."""
    if not data.startswith(b"\x89PNG") or rng.random() < 0.3:
        return damage_bytes(data, rng)
    chunks, at = [], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    which = rng.randrange(len(chunks))
    kind, content = chunks[which]
    choice = rng.randrange(8)
    if choice <= 2:
        kind, content = chunks[0]
        fields = list(struct.unpack(">IIBBBBB", content)) if len(content) == 13 else [8, 8, 8, 2, 0, 0, 0]
        if rng.random() < 0.6:
            fields[rng.randrange(2)] = rng.choice(
                (0, 1, 2, 7, 9, 33, 1000, 4000, 9000, 20000, 65535, 1 << 20, (1 << 31) - 1)
            )
        else:
            fields[rng.randrange(2, 7)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 5, 255))
        chunks[0] = (kind, struct.pack(">IIBBBBB", *fields))
    elif choice == 3:
        chunks[which] = (kind, damage_bytes(content, rng))
    elif choice == 4:
        del chunks[which]
    elif choice == 5:
        chunks.insert(which, chunks[rng.randrange(len(chunks))])
    elif choice == 6:
        name = rng.choice(
            (b"tRNS", b"PLTE", b"gAMA", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IEND")
        )
        chunks.insert(which, (name, bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 3, 26, 90))))))
    else:
        chunks = [(k, zlib.compress(damage_bytes(_inflated(c), rng))) if k == b"IDAT" else (k, c) for k, c in chunks]
    return data[:8] + b"".join(
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks
    )


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompress(data)
    except zlib.error:
        return data


def _damage_directory(data: bytes, rng: random.Random) -> bytes:
    """Fields of the entries' headers changed."""
    out = bytearray(data)
    starts = [m.start() for m in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06)", data)]
    if not starts:
        return damage_bytes(data, rng)
    at = rng.choice(starts) + rng.randrange(4, 46)
    width = rng.choice((1, 2, 4))
    out[at : at + width] = (rng.choice(_WIDE) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(out)


def _places(tree: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found.append((tree, key))
        if isinstance(value, (dict, list)):
            _places(value, found)
    return found


def _damage_tree(tree: Any, rng: random.Random) -> Any:
    places = _places(tree, [])
    if not places or rng.random() < 0.02:
        return rng.choice(_VALUES)
    # Fields near the top as often as the many numbers of matrices.
    holder, key = rng.choice(places if rng.random() < 0.5 else places[: max(len(places) // 8, 12)])
    kind = rng.randrange(8)
    if kind <= 4:
        holder[key] = rng.choice(_VALUES)
    elif kind == 5:
        del holder[key]
    elif kind == 6:
        other, name = rng.choice(places)
        if (isinstance(other, dict) and name in other) or (isinstance(other, list) and name < len(other)):
            value = other[name]
            if not isinstance(value, (dict, list)):
                holder[key] = value
    elif isinstance(holder, list):
        holder.insert(key, rng.choice(_VALUES))
    else:
        holder[rng.choice(("extra", "w", "h", "fps", "seconds", "step", "version", "mask_path"))] = rng.choice(_VALUES)
    return tree


def _dump(value: Any) -> str:
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))}: {_dump(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dump, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
