"""The processor that kernels are compiled for, and what else decides which machine code comes out."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import sys
import tempfile
from typing import Any

import numba
from llvmlite import binding, ir

from studio.errors import StudioError

# Numba sets these from the environment, where type checkers do not see them.
numba_config: Any = numba.config

# Numba joins the features of the processor at hand to any processor that NUMBA_CPU_NAME names: on a machine with
# AVX-512 "x86-64-v3" would still use its registers. Nothing said about features means those of the named processor.
if numba_config.CPU_NAME and numba_config.CPU_FEATURES is None:
    numba_config.CPU_FEATURES = ""


def processor() -> tuple[str, str]:
    """Name and features, as LLVM writes them, of the processor that kernels are compiled for."""
    name = numba_config.CPU_NAME or binding.get_host_cpu_name()
    features = numba_config.CPU_FEATURES
    if features is None:
        features = binding.get_host_cpu_features().flatten()
    return str(name), str(features)


@functools.cache
def has_wide_registers() -> bool:
    """Whether sixteen float32 lanes fit one register: AVX-512, where LLVM does not prefer halves of it.

    Asked of LLVM itself, by compiling an addition, as names and features of processors are many.
    """
    vector = ir.VectorType(ir.FloatType(), 16)
    module = ir.Module(name="width")
    function = ir.Function(module, ir.FunctionType(vector, [vector, vector]), name="add")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(builder.fadd(*function.args))
    name, features = processor()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    machine = target.create_target_machine(cpu=name, features=features)
    return "zmm" in machine.emit_assembly(binding.parse_assembly(str(module)))


def facts() -> dict[str, str]:
    """All besides its sources that a compiled kernel depends on: versions, processor, options of the compiler."""
    name, features = processor()
    options = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "ENABLE_AVX", "BOUNDSCHECK", "DEBUGINFO_DEFAULT")
    return {
        "system": f"{sys.platform} {platform.machine()}",
        "python": f"{sys.implementation.cache_tag} {platform.python_version()}{getattr(sys, 'abiflags', '')}",
        "numpy": _version("numpy"),
        "numba": numba.__version__,
        "llvm": f"{_version('llvmlite')} {'.'.join(map(str, binding.llvm_version_info))}",
        "processor": name,
        "features": features,
        "options": " ".join(f"{o}={getattr(numba_config, o, None)}" for o in options),
    }


@functools.cache
def target_key() -> str:
    """Hash of `facts`, 16 hex digits. Two processors that share a home folder have different ones."""
    return hashlib.sha256(repr(sorted(facts().items())).encode()).hexdigest()[:16]


@functools.cache
def check_processor() -> None:
    """Return if LLVM knows the processor named by ``NUMBA_CPU_NAME``.

    Raises:
        StudioError: It does not. LLVM itself would go on with its oldest instructions.
    """
    name = numba_config.CPU_NAME
    if not name or str(name).lower() == "generic":
        return
    if "not a recognized processor" in _complaints_about(str(name)):
        host = binding.get_host_cpu_name()
        raise StudioError(
            f"NUMBA_CPU_NAME: '{name}' is not a processor that LLVM {binding.llvm_version_info[0]} knows.",
            fix=f"Leave the variable out to compile for this processor ('{host}'), or name one such as x86-64-v3.",
        )


def _complaints_about(name: str) -> str:
    """What LLVM prints when it is to compile for a processor. It tells nobody in any other way."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as heard:
        kept = os.dup(2)
        try:
            os.dup2(heard.fileno(), 2)
            with contextlib.suppress(RuntimeError):
                binding.Target.from_triple(binding.get_process_triple()).create_target_machine(cpu=name)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        heard.seek(0)
        return heard.read().decode(errors="replace")


def _version(package: str) -> str:
    return str(sys.modules[package].__version__)
