"""The runs of a folder: what they are, which are better, what they differ in, and getting rid of them.

Nothing here loads a model or torch, so that listing hundreds of runs takes a moment.
"""

from studio.catalog.comparison import RunComparison, compare_runs, on_different_data
from studio.catalog.query import Filter, parse_filter, select_runs, sort_runs
from studio.catalog.records import RunRecord, find_runs, read_run
from studio.catalog.removal import Removal, plan_removal

__all__ = [
    "Filter",
    "Removal",
    "RunComparison",
    "RunRecord",
    "compare_runs",
    "find_runs",
    "on_different_data",
    "parse_filter",
    "plan_removal",
    "read_run",
    "select_runs",
    "sort_runs",
]
