"""When the command began: budgets of training time count from there."""

from __future__ import annotations

import os
import time
from pathlib import Path

_LONGEST_START = 60.0


def process_start() -> float:
    """The `time.perf_counter` value at which this process was started; now where the system does not tell.

    Linux counts it in ticks of a hundredth of a second. It includes what Python needs before any code of ours runs.
    """
    now = time.perf_counter()
    try:
        # The process name, in brackets, may hold spaces; field 22 of proc(5) is the 20th behind it.
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    # Some sandboxes give process times on a clock of their own.
    return now - age if 0 <= age <= _LONGEST_START else now
