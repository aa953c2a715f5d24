"""From bytes to a function: each kernel in an execution engine of its own.

Symbols of an object file are looked for in its engine, then in the process. With one engine for all, as in Numba, code
that was compiled in two processes shares the names that count anew in each, and whichever is loaded first serves both.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import binding
from numba.core import sigutils, typing
from numba.core.compiler import compile_result
from numba.core.registry import cpu_target
from numba.np.ufunc import parallel as numba_threads

from studio.kernels.image import KernelImage, Unusable

_njit: Any = numba.njit
# Compiled modules of Numba, which its types do not tell of.
_dynfunc: Any = importlib.import_module("numba._dynfunc")
_nrt_python: Any = importlib.import_module("numba.core.runtime._nrt_python")


def load(image: KernelImage, function: Callable[..., Any], signature: str) -> Any:
    """A Numba dispatcher that runs the machine code of `image` for calls of `function`.

    Raises:
        Unusable: The process lacks what the code calls.
    """
    if image.parallel:
        numba_threads._launch_threads()
    _check_imports(image)
    engine = _engine(image.code)
    environments = []
    for name, constants in image.environments:
        environment = _dynfunc.Environment(function.__globals__)
        environment.consts.extend(map(_constant, constants))
        place = engine.get_global_value_address(name)
        if place:
            ctypes.c_void_p.from_address(place).value = id(environment)
        environments.append(environment)
    address = engine.get_function_address(image.entry)
    if not address or not environments:
        raise Unusable("its function is not in it")
    entry = _dynfunc.make_function(
        sys.modules.get(function.__module__, sys),
        function.__name__,
        function.__doc__ or "",
        address,
        environments[0],
        (engine, *environments),  # kept alive with the function
    )
    dispatcher = _njit(nogil=True, error_model="numpy")(function)
    arguments, returned = sigutils.normalize_signature(signature)
    dispatcher.add_overload(
        compile_result(
            signature=typing.signature(returned or numba.types.none, *arguments),
            entry_point=entry,
            objectmode=False,
            lifted=(),
            reload_init=(),
        )
    )
    dispatcher.disable_compile()
    return dispatcher


def _check_imports(image: KernelImage) -> None:
    # LLVM ends the process when a symbol is missing, so they are looked for beforehand.
    if _missing(image):
        for name, address in _nrt_python.c_helpers.items():
            binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)
    if _missing(image):
        cpu_target.target_context.refresh()
    missing = _missing(image)
    if missing:
        raise Unusable(f"it calls {missing[0]}, which is not here")


def _missing(image: KernelImage) -> list[str]:
    return [name for name in image.imports if not binding.address_of_symbol(name)]


def _engine(code: bytes) -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    triple = binding.get_process_triple()
    machine = binding.Target.from_triple(triple).create_target_machine(codemodel="jitdefault", jit=True)
    module = binding.parse_assembly("")
    module.triple = triple
    engine = binding.create_mcjit_compiler(module, machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def _constant(plain: Any) -> Any:
    if isinstance(plain, dict):
        return np.dtype(_description(plain["dtype"]))
    return plain


def _description(plain: Any) -> Any:
    """JSON makes lists of the tuples in a description of a structured dtype."""
    if not isinstance(plain, list):
        return plain
    fields = []
    for name, kind, *shape in plain:
        fields.append((name, _description(kind), *(tuple(each) for each in shape)))
    return fields
