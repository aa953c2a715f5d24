"""The inner loops of the rasteriser by target: instructions, accesses to the stack, cycles by LLVM's model.

    python benchmarks/kernel_assembly.py

Compiles the forward and backward kernels (RGB, with absolute gradients) for AVX2, AVX-512 and, from the same
intermediate code, for a processor with NEON that need not be here. Needs llvm-mca (Debian: llvm) for the cycles, and
leaves them out where it is missing. Writes results/kernel_assembly.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import RESULTS, Report

PROTOCOL = (
    "Loops of the compiled code that contain no other loop: those that do a splat's work on a strip or row of a tile, "
    "and the one that prepares the rows of a splat. 'rows' is how many of a tile's eight rows a turn of the loop does. "
    "'stack' counts instructions that read or write the stack, spilled values and constants parked there alike. "
    "'cycles' is what llvm-mca predicts for a turn (processor named; all in first-level cache, branches predicted), "
    "'cycles a tile' the same for all eight rows. The NEON code is compiled from LLVM IR that Numba made here for a "
    "processor without AVX-512, by the same LLVM for aarch64; it was not run."
)


@dataclass(frozen=True)
class Target:
    """A processor to compile for, and the one whose model predicts cycles."""

    name: str
    compiled_for: str
    model: str
    arm: bool = False


TARGETS = (
    Target("AVX2", "x86-64-v3", "znver3"),
    Target("AVX-512", "znver4", "icelake-server"),
    Target("NEON", "neoverse-n1", "neoverse-n1", arm=True),
)

_CHILD = """
import json, sys
from studio_splat.kernels import blend
from studio_splat.kernels.raster_backward import _backward_kernel
from studio_splat.kernels.raster_forward import _forward_kernel
kernels = {"forward": _forward_kernel(3, False), "backward": _backward_kernel(3, True)}
out = {name: {"asm": k.assembly(), "ir": k.llvm()} for name, k in kernels.items()}
json.dump({"strip_rows": blend.STRIP_ROWS, "kernels": out}, open(sys.argv[1], "w"))
"""

_FUNCTIONS = {"forward": "blend_tiles", "backward": "tile_gradients"}
_FMA = re.compile(r"vfn?m(?:add|sub)|\bfml[as]\b")
_DIVISION = re.compile(r"\bv?f?div(?:ps)?\b")
_ROUNDING = re.compile(r"vpslld|\bshl\b")  # the exponent of 2^x
_STACK = re.compile(r"\(%rsp|\[sp\b")


def compile_for(processor: str) -> dict:
    """Assembly and LLVM IR of both kernels, compiled by Numba in a process and a cache of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "code.json"
        environment = {**os.environ, "NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": "", "XDG_CACHE_HOME": folder}
        subprocess.run([sys.executable, "-c", _CHILD, str(result)], env=environment, check=True)
        return json.loads(result.read_text())


def retarget(ir: str, triple: str, processor: str) -> str:
    """Assembly of LLVM IR for another kind of processor."""
    from llvmlite import binding

    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=processor, opt=3)
    ir = re.sub(r"^target datalayout = .*$", f'target datalayout = "{machine.target_data}"', ir, flags=re.M)
    ir = re.sub(r"^target triple = .*$", f'target triple = "{triple}"', ir, flags=re.M)
    # Reference counting outside the loops; the intrinsic exists on x86 only, and the code is not run.
    ir = re.sub(r"(?:tail )?call i8 @llvm\.x86\.atomic\.sub\.cc.*", "add i8 0, 0", ir)
    ir = re.sub(r"^declare i8 @llvm\.x86\.atomic.*$", "", ir, flags=re.M)
    return machine.emit_assembly(binding.parse_assembly(ir))


def innermost_loops(assembly: str, function: str) -> Iterator[list[str]]:
    """Instructions of each loop without branches inside, of the functions whose names hold `function`."""
    inside, label, body = False, None, []
    for line in assembly.splitlines():
        name = re.match(r"^([\w.$]+):", line)
        if name and not name[1].startswith(".L"):
            inside, label = function in name[1], None
        elif name:
            label, body = name[1], []
        elif inside and label and line.startswith("\t") and not line.strip().startswith((".", "#", "//")):
            body.append(line.strip())
            if re.search(rf"{re.escape(label)}\b", line):
                yield body
                label = None


def model_cycles(body: list[str], target: Target) -> float | None:
    """Cycles of one turn of a loop by llvm-mca, None where it is not installed."""
    program = shutil.which("llvm-mca")
    if program is None:
        return None
    turns = 200
    triple = "aarch64-linux-gnu" if target.arm else "x86_64-linux-gnu"
    command = [program, f"-mtriple={triple}", f"-mcpu={target.model}", f"-iterations={turns}"]
    # Jumps cost nothing that the model knows of, and their labels are not defined here.
    code = "\n".join(line for line in body if not re.match(r"j\w+\s|b\.\w+\s|cbn?z\s|tbn?z\s", line))
    done = subprocess.run(command, input=code, capture_output=True, text=True, check=True)
    return int(re.search(r"Total Cycles:\s+(\d+)", done.stdout)[1]) / turns  # type: ignore[index]


def name_of(body: list[str], kernel: str) -> str | None:
    """What a loop does, told by its instructions; None for loops that are not about a splat."""
    text = "\n".join(body)
    fmas = len(_FMA.findall(text))
    if kernel == "forward":
        if fmas and re.search("prfm|prefetch", text):
            return "rows of a splat"
        return "blend a strip" if fmas >= 9 and _ROUNDING.search(text) else None
    if fmas >= 9 and _DIVISION.search(text):
        return "gradients of a strip"
    if fmas in (5, 10) and not _ROUNDING.search(text):
        return "sums of g"
    return "sums of colour" if fmas in (3, 6) and not re.search("prfm|prefetch", text) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    report = Report(
        "kernel_assembly",
        title="Inner loops of the rasteriser",
        protocol=PROTOCOL,
        settings=vars(arguments),
        folder=arguments.results,
    )
    for target in TARGETS:
        # Code for a processor of narrow registers is what NEON gets, too.
        found = compile_for("x86-64-v3" if target.arm else target.compiled_for)
        for kernel, function in _FUNCTIONS.items():
            code = found["kernels"][kernel]
            assembly = retarget(code["ir"], "aarch64-linux-gnu", target.compiled_for) if target.arm else code["asm"]
            seen = set()
            for body in innermost_loops(assembly, function):
                name = name_of(body, kernel)
                if name is None or name in seen:
                    continue
                seen.add(name)
                rows = {"rows of a splat": 8, "sums of g": 1, "sums of colour": 1}.get(name, found["strip_rows"])
                cycles = model_cycles(body, target)
                report.add(
                    target=target.name,
                    compiled_for=target.compiled_for,
                    kernel=kernel,
                    loop=name,
                    rows=rows,
                    instructions=len(body),
                    stack=sum(1 for line in body if _STACK.search(line)),
                    model=target.model,
                    cycles=cycles,
                    cycles_a_tile=None if cycles is None else cycles * 8 / rows,
                )
    report.print()


if __name__ == "__main__":
    main()
