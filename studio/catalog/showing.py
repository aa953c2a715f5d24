"""Facts of runs as short texts, for tables."""

from __future__ import annotations

from typing import Any

from studio.catalog.records import RunRecord


def show_steps(run: RunRecord) -> str:
    """'300/6,000', or the number alone where it is all."""
    if run.status == "damaged":
        return ""
    return f"{run.step:,}" if run.step >= run.total_steps else f"{run.step:,}/{run.total_steps:,}"


def show_main_metric(run: RunRecord) -> str:
    """'PSNR 31.24', in brackets where it is of the training."""
    main = run.main_metric
    if main is None:
        return ""
    name = main[0].upper() if len(main[0]) <= 4 else main[0].replace("_", " ")
    text = f"{name} {main[1]:.2f}" if main[0] == "psnr" else f"{name} {show_value(main[1])}"
    return text if run.measured == "held out" else f"({text})"


def show_value(value: Any) -> str:
    """Numbers to four digits, the rest as it is."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def show_size(size: int) -> str:
    """Bytes as '12 kB' or '3.4 MB', powers of 1000."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 9.95 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
