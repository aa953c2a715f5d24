"""A compiled kernel as bytes: machine code, what is needed to call it, and a checksum over all of it.

Nothing in it is unpickled or evaluated: behind the checksum come a header in JSON and the object file that LLVM wrote.
The machine code is code all the same, so `studio.kernels.folder` decides whose files are read.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass
from typing import Any

_MAGIC = b"neural-studio kernel\n"
_FORMAT = 1


class Unusable(Exception):
    """Bytes that are not the compiled kernel they should be: cut, changed, or of another kernel, version or machine."""


@dataclass(frozen=True)
class KernelImage:
    """One kernel, compiled.

    Attributes:
        key: What it was compiled from and for, see `studio.kernels.sources` and `studio.kernels.target`.
        name: The kernel's name, for people.
        entry: Symbol of the function that Python calls.
        environments: Symbols of Numba's environments, the entry's first, each with its constants as JSON can say them.
        imports: Symbols that must be found in the process.
        parallel: Whether Numba's threads have to be running.
        code: The object file.
    """

    key: str
    name: str
    entry: str
    environments: tuple[tuple[str, tuple[Any, ...]], ...]
    imports: tuple[str, ...]
    parallel: bool
    code: bytes

    def encode(self) -> bytes:
        """As the bytes of a file."""
        header = asdict(self)
        del header["code"]
        text = json.dumps({"format": _FORMAT, **header}).encode()
        body = struct.pack("<I", len(text)) + text + self.code
        return _MAGIC + hashlib.sha256(body).digest() + body

    @classmethod
    def decode(cls, data: bytes, key: str) -> KernelImage:
        """Inverse of `encode`.

        Raises:
            Unusable: The checksum is wrong, or the bytes are of another format or have another key.
        """
        start = len(_MAGIC) + hashlib.sha256().digest_size
        if not data.startswith(_MAGIC) or len(data) < start + 4:
            raise Unusable("it is cut, or no compiled kernel" if data else "it is empty")
        body = data[start:]
        if hashlib.sha256(body).digest() != data[len(_MAGIC) : start]:
            raise Unusable("its checksum is wrong")
        (size,) = struct.unpack_from("<I", body)
        header = json.loads(body[4 : 4 + size])
        if header.pop("format") != _FORMAT:
            raise Unusable("it has another format")
        if header["key"] != key:
            raise Unusable("it is of another kernel, version or machine")
        header["environments"] = tuple((name, tuple(constants)) for name, constants in header["environments"])
        header["imports"] = tuple(header["imports"])
        return cls(**header, code=body[4 + size :])
