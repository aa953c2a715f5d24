"""What a kernel is built from: the key under which its machine code is kept, and which functions it may call.

Numba's own cache notices an edit only in the file of the cached function, never in a module it imports, and tells
closures apart by what happens to be pickled. Here the key of a kernel is a hash of all it is made of: the functions
that it reaches through globals, attributes of modules and closures, with the values of the constants among them; the
files they stand in; and all files of the kernel's own folder and of the engine's kernel rooms, where overloads and
intrinsics live that no name leads to.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher
from numba.core.types import Type as NumbaType

from studio.kernels.target import target_key

ENGINE_FOLDERS = (Path(__file__).parent, Path(__file__).parent.parent / "marching" / "kernels")
"""Kernel sources of the engine, which kernels of any package may build on."""

# Their versions are part of the target's key; what they contain need not be looked at.
_FOREIGN = frozenset({"numba", "llvmlite", "numpy", "builtins", "math", "cmath", "operator", "functools", "typing"})


class Sources:
    """All that one kernel is made of.

    Attributes:
        key: 32 hex digits that differ for any two kernels that may differ, in any two processes.
        functions: Numba functions that are reached.
        unknown: What was reached and cannot be told apart from others of its kind, so that the kernel has a key for
            this process only; empty as a rule.
    """

    def __init__(self, function: types.FunctionType, declaration: Iterable[str]) -> None:
        self.functions: list[Dispatcher] = []
        self.unknown: list[str] = []
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []
        self._files: set[Path] = set()
        self._digest = hashlib.sha256()
        self._say("kernel", target_key(), *declaration)
        self._function(function)
        self._files.update(_folder_files(Path(function.__code__.co_filename).resolve().parent))
        for folder in ENGINE_FOLDERS:
            self._files.update(_folder_files(folder))
        # By content: where a package is installed makes no difference. Order and names matter.
        for name, content in sorted((path.name, _file_hash(path)) for path in self._files):
            self._say("file", name, content)
        for what in self.unknown:
            self._say("unknown", what, str(id(self)), _NONCE)
        self.key = self._digest.hexdigest()[:32]
        self._kept.clear()

    def _say(self, *words: str) -> None:
        # Lengths, so that no two sequences of words read the same.
        for word in words:
            data = word.encode(errors="surrogatepass")
            self._digest.update(f"{len(data)}:".encode() + data)

    def _first_time(self, value: Any) -> bool:
        """Whether `value` is met for the first time; when not, which one it is goes into the key."""
        before = self._seen.setdefault(id(value), len(self._seen))
        if before < len(self._kept):
            self._say("again", str(before))
            return False
        self._kept.append(value)  # its id shall not be used again meanwhile
        return True

    def _function(self, function: types.FunctionType) -> None:
        if not self._first_time(function):
            return
        code = function.__code__
        path = Path(code.co_filename)
        if path.is_file():
            self._files.add(path.resolve())
        self._say("function", function.__module__ or "", function.__qualname__)
        self._code(code)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
            self._say("closure", name)
            try:
                self._value(cell.cell_contents, name)
            except ValueError:
                self._say("empty")
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._value(default, "default")
        names = sorted(set(_all_names(code)))
        for name in names:
            if name in function.__globals__:
                value = function.__globals__[name]
                self._say("global", name)
                if isinstance(value, types.ModuleType):
                    self._module(value, names)
                else:
                    self._value(value, name)

    def _code(self, code: types.CodeType) -> None:
        self._say("code", code.co_name, code.co_code.hex(), *code.co_names, "|", *code.co_varnames, "|")
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant)
            elif isinstance(constant, frozenset):
                self._say(*sorted(map(repr, constant)))
            else:
                self._say(type(constant).__name__, repr(constant))

    def _module(self, module: types.ModuleType, names: Iterable[str]) -> None:
        self._say("module", module.__name__)
        if module.__name__.split(".")[0] in _FOREIGN:
            return
        for name in names:
            if name in vars(module):
                self._say("attribute", name)
                value = vars(module)[name]
                if not isinstance(value, types.ModuleType):
                    self._value(value, name)
                elif self._first_time(value):
                    self._module(value, names)

    def _value(self, value: Any, name: str) -> None:
        kind = type(value)
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic, np.dtype)):
            self._say(kind.__name__, repr(value))
        elif isinstance(value, NumbaType):
            self._say("type", str(value))
        elif isinstance(value, (tuple, list)):
            self._say(kind.__name__, str(len(value)))
            for item in value:
                self._value(item, name)
        elif isinstance(value, (set, frozenset, dict)):
            items = value.items() if isinstance(value, dict) else ((item, None) for item in value)
            self._say(kind.__name__, str(len(value)))
            for key, item in sorted(items, key=lambda pair: repr(pair[0])):
                self._value(key, name)
                self._value(item, name)
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self._say("array", repr(value.dtype), repr(value.shape), hashlib.sha256(value.tobytes()).hexdigest())
        elif isinstance(value, Dispatcher):
            if self._first_time(value):
                self._say("dispatcher")
                self._value(dict(value.targetoptions), "options")
                self.functions.append(value)
                self._function(value.py_func)
        elif isinstance(value, types.FunctionType):
            if value.__module__.split(".")[0] not in _FOREIGN:
                self._function(value)
        elif isinstance(value, types.ModuleType):
            self._module(value, ())
        elif isinstance(value, (type, types.BuiltinFunctionType, np.ufunc)):
            self._say("class", getattr(value, "__module__", "") or "", value.__name__)
        else:
            self._other(value, name)

    def _other(self, value: Any, name: str) -> None:
        """Intrinsics, wrappers and whatever else a name leads to."""
        if not self._first_time(value):
            return
        kind = type(value)
        package = kind.__module__.split(".")[0]
        self._say("object", kind.__module__, kind.__qualname__)
        for hidden in ("_defn", "__wrapped__", "py_func", "function"):
            inner = getattr(value, hidden, None)
            if isinstance(inner, types.FunctionType):
                self._function(inner)
                return
        if package in ("typing", "functools", "__future__"):
            return
        text = repr(value)
        if " at 0x" in text or package in ("types", "_thread", "ctypes", "_ctypes"):
            self.unknown.append(f"{name} ({kind.__module__}.{kind.__qualname__})")
        else:
            self._say(text)


def _all_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _all_names(constant)


@functools.cache
def _folder_files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("*.py")))


@functools.cache
def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


_NONCE = secrets.token_hex(8)
"""Of this process."""


def sources_of(function: Callable[..., Any], signature: str, parallel: bool) -> Sources:
    """Everything that a kernel with this signature is made of."""
    assert isinstance(function, types.FunctionType)
    return Sources(function, (signature, f"parallel={parallel}"))
