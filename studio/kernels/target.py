"""What the processor is like that kernels are compiled for, where their source has to ask."""

from __future__ import annotations

import functools
from typing import Any

import numba
from llvmlite import binding, ir

# Numba sets these from the environment, where type checkers do not see them.
_config: Any = numba.config


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
    features = _config.CPU_FEATURES
    if features is None:
        features = binding.get_host_cpu_features().flatten()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=_config.CPU_NAME or binding.get_host_cpu_name(), features=features
    )
    return "zmm" in machine.emit_assembly(binding.parse_assembly(str(module)))
