"""From a Python function to machine code: Numba's types and lowering, LLVM's optimiser once, one object file.

Numba optimises and translates every function by itself before the ones that call it, so the code of a kernel goes
through LLVM as often as its calls are deep. While a kernel is built here, what it calls is only linked; the kernel as a
whole is then optimised and translated once. Everything but the function that Python calls becomes internal to the
object file, and that one is named after the kernel's key: no two kernels share a symbol.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
from numba.core import caching, codegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher
from numba.core.environment import lookup_environment
from numba.core.registry import cpu_target

from studio.kernels.image import KernelImage
from studio.kernels.sources import Sources
from studio.kernels.target import check_processor

PARALLEL = {
    "prange": True,
    "comprehension": False,
    "reduction": False,
    "inplace_binop": False,
    "setitem": False,
    "numpy": False,
    "stencil": False,
    "fusion": False,
}

_njit: Any = numba.njit

_ENVIRONMENT = "_ZN08NumbaEnv"
_ADDRESS = "numba.dynamic.globals"
_RECURSION = ".numba.unresolved$"


class OnlyHere(Exception):
    """A kernel whose machine code means something in the process that compiled it, and in no other."""


def build(
    function: Callable[..., Any], signature: str, parallel: bool, sources: Sources, *, lasting: bool = False
) -> KernelImage:
    """Compile a kernel.

    Args:
        function: What to compile.
        signature: For which types.
        parallel: Whether it has a parallel loop.
        sources: What it is made of.
        lasting: Whether the process is there for building alone; Numba functions that it builds cannot be called from
            Python afterwards, but need not be compiled again for the next kernel.

    Raises:
        OnlyHere: It cannot be kept: it calls back into Python, holds addresses, or returns what needs Python objects.
        numba.core.errors.NumbaError: It cannot be compiled.
    """
    module, result, machine = _compile(function, signature, parallel, sources, lasting)
    return _image(f"{function.__module__}.{function.__qualname__}", module, result, machine, sources.key)


def assembly(function: Callable[..., Any], signature: str, parallel: bool, sources: Sources) -> str:
    """The assembler text of a kernel, compiled anew."""
    module, _, machine = _compile(function, signature, parallel, sources, lasting=False)
    return str(machine.emit_assembly(module))


def llvm(function: Callable[..., Any], signature: str, parallel: bool, sources: Sources) -> str:
    """The optimised intermediate code of a kernel, compiled anew."""
    module, _, _ = _compile(function, signature, parallel, sources, lasting=False)
    return str(module)


def only_here(function: Callable[..., Any], signature: str, parallel: bool) -> Any:
    """A dispatcher compiled by Numba as usual, for this process."""
    options = {"nogil": True, "error_model": "numpy", "parallel": PARALLEL if parallel else False}
    return _njit(signature, **options)(function)


def _compile(
    function: Callable[..., Any], signature: str, parallel: bool, sources: Sources, lasting: bool
) -> tuple[Any, Any, Any]:
    """LLVM's module, optimised; Numba's result; LLVM's target machine."""
    check_processor()
    context = cpu_target.target_context
    with global_compiler_lock:
        # With all that Numba itself is going to compile for running, before compiling for running is off.
        context.refresh()
        with _fresh(sources.functions), _linking_only(lasting) as optimise:
            dispatcher = _njit(
                signature,
                nogil=True,
                error_model="numpy",
                no_cfunc_wrapper=True,
                parallel=PARALLEL if parallel else False,
            )(function)
            (result,) = dispatcher.overloads.values()
        if result.objectmode or any(not lifted.can_cache for lifted in result.lifted):
            raise OnlyHere("it calls Python")
        library = result.library
        module = library._final_module
        entry = result.fndesc.llvm_cpython_wrapper_name
        for defined in module.functions:
            if not defined.is_declaration and defined.name != entry:
                defined.linkage = "internal"
        optimise(library)
        for variable in module.global_variables:
            if variable.name.startswith(_ADDRESS):
                raise OnlyHere("it holds an address or a large array")
            if variable.name.startswith(_RECURSION):
                raise OnlyHere("functions in it call themselves")
        return module, result, library.codegen._tm


def _image(name: str, module: Any, result: Any, machine: Any, key: str) -> KernelImage:
    foreign = {each.__name__ for each in result.reload_init} - {"_reload_parfors"}
    if foreign:
        raise OnlyHere(f"it needs {', '.join(sorted(foreign))}")
    entry = f"studio_kernel_{key}"
    module.get_function(result.fndesc.llvm_cpython_wrapper_name).name = entry
    own = result.fndesc.env_name
    names = [each.name for each in module.global_variables if each.name.startswith(_ENVIRONMENT)]
    environments = []
    for number, old in enumerate(sorted(names, key=lambda each: (each != own, each))):
        found = result.environment if old == own else lookup_environment(old)
        constants = tuple(_plain(each) for each in (found.consts if found is not None else ()))
        renamed = f"studio_kernel_{key}_environment_{number}"
        module.get_global_variable(old).name = renamed
        environments.append((renamed, constants))
    imports = [
        each.name
        for kind in (module.functions, module.global_variables)
        for each in kind
        if each.is_declaration and not each.name.startswith("llvm.")
    ]
    return KernelImage(
        key=key,
        name=name,
        entry=entry,
        environments=tuple(environments),
        imports=tuple(sorted(imports)),
        parallel=bool(result.reload_init),
        code=machine.emit_object(module),
    )


def _plain(constant: Any) -> Any:
    """A constant of an environment as JSON can say it; `studio.kernels.loading` turns it back."""
    if isinstance(constant, np.dtype) and not constant.hasobject:
        return {"dtype": np.lib.format.dtype_to_descr(constant)}
    if constant is None or isinstance(constant, (bool, int, str)):
        return constant
    raise OnlyHere(f"it returns Python objects made from {constant!r}")


@contextlib.contextmanager
def _fresh(functions: list[Any]) -> Iterator[None]:
    """Keep what Numba loaded from its own cache out of a kernel.

    The names in such code count from one in the process that compiled it, as they do here, so functions that differ may
    have the same name. Functions declared with ``cache=True`` are compiled anew for the kernel.
    """
    cached = [each for each in functions if not isinstance(each._cache, caching.NullCache)]
    stores = [each._cache for each in cached]
    try:
        for each in cached:
            each._cache = caching.NullCache()
        for each in cached:
            if each.overloads:
                each.recompile()
        yield
    finally:
        for each, store in zip(cached, stores, strict=True):
            each._cache = store


_internals_lock = threading.RLock()


@contextlib.contextmanager
def _linking_only(lasting: bool) -> Iterator[Callable[[Any], None]]:
    """Let Numba link what it compiles, and neither optimise nor translate it; gives the optimiser left out.

    Call with Numba's compiler lock held, so that nobody else compiles meanwhile. A Numba that is built differently
    does the usual.
    """
    library, machine = codegen.JITCodeLibrary, codegen.JITCPUCodegen
    whole = getattr(codegen.CPUCodeLibrary, "_optimize_final_module", None)
    replaced: list[tuple[Any, str, Any]] = [
        (library, "_optimize_final_module", lambda self: None),
        (library, "_optimize_functions", _set_layout),
        (library, "_finalize_specific", lambda self: None),
        (library, "get_pointer_to_function", lambda self, name: self._ensure_finalized() or 0),
        (machine, "_add_module", lambda self, module: None),
        (machine, "set_env", lambda self, name, environment: None),
    ]
    if whole is None or not all(hasattr(owner, name) for owner, name, _ in replaced):
        yield lambda finished: None
        return
    compiled: list[tuple[Any, tuple[Any, ...]]] = []
    add_overload = Dispatcher.add_overload

    def adding(self: Dispatcher, result: Any) -> None:
        compiled.append((self, tuple(result.signature.args)))
        add_overload(self, result)

    replaced.append((Dispatcher, "add_overload", adding))
    with _internals_lock:
        before = [(owner, name, vars(owner).get(name)) for owner, name, _ in replaced]
        for owner, name, value in replaced:
            setattr(owner, name, value)
        try:
            yield whole
        finally:
            for owner, name, value in before:
                if value is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, value)
            if not lasting:
                _forget(compiled)


def _set_layout(self: Any, module: Any) -> None:
    module.data_layout = self._codegen._data_layout


def _forget(compiled: list[tuple[Any, tuple[Any, ...]]]) -> None:
    """Take what has no machine code from functions that Python might call; it is compiled again if it does."""
    for function in dict.fromkeys(each for each, _ in compiled):
        if function.targetoptions.get("no_cpython_wrapper"):
            continue
        mine = {arguments for each, arguments in compiled if each is function}
        kept = [result for arguments, result in function.overloads.items() if tuple(arguments) not in mine]
        function._reset_overloads()
        for result in kept:
            function.add_overload(result)
