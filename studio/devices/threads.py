"""How many CPU threads compute. Imports torch and Numba only if they are loaded already or must be set."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from studio.devices.host_cpu import Cores, cores
from studio.errors import StudioError

VARIABLE = "STUDIO_THREADS"


@dataclass(frozen=True)
class ThreadPlan:
    """A number of threads and where it comes from."""

    count: int
    reason: str


def plan_threads(found: Cores | None = None) -> ThreadPlan:
    """STUDIO_THREADS, else OMP_NUM_THREADS, else the physical cores that this process may use.

    Args:
        found: The cores; default: this machine's.

    Raises:
        StudioError: A variable is not a whole number of at least 1.
    """
    found = found or cores()
    for variable in (VARIABLE, "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "").strip()
        if not text:
            continue
        # OpenMP admits a list, one number a nesting level; the first is the outermost.
        first = text.split(",")[0].strip() if variable != VARIABLE else text
        if not (first.isascii() and first.isdigit() and int(first) >= 1):
            raise StudioError(
                f"{variable}={text!r} is not a number of threads.",
                fix=f"Set a whole number of at least 1, or unset {variable}.",
            )
        count = int(first)
        more = f", more than the {found.usable} usable cores" if count > found.usable else ""
        return ThreadPlan(count, f"{variable}{more}")
    if found.quota is not None and found.physical <= found.quota < found.logical:
        return ThreadPlan(found.physical, f"usable physical cores within a quota of {found.quota:g}")
    return ThreadPlan(found.physical, "usable physical cores")


def apply_threads(plan: ThreadPlan | None = None) -> ThreadPlan:
    """Let torch and Numba compute with this many threads, in this process.

    Numba fixes the size of its pool when it is first imported; before that the pool is sized through NUMBA_NUM_THREADS,
    afterwards only fewer threads than the pool has can be used.

    Returns:
        The plan that was applied.

    Raises:
        StudioError: As `plan_threads`.
    """
    plan = plan or plan_threads()
    import torch

    torch.set_num_threads(plan.count)
    if "numba" in sys.modules:
        import numba

        numba.set_num_threads(min(plan.count, vars(numba.config)["NUMBA_NUM_THREADS"]))
    else:
        os.environ.setdefault("NUMBA_NUM_THREADS", str(plan.count))
    return plan
