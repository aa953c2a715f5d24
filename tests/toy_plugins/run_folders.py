"""Run folders as a training leaves them, without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studio.training.run import DataSettings, RunConfig, RunFolder


def write_run(
    root: Path,
    plugin: str = "splat",
    *,
    data: str = "/photos/room",
    stamp: str = "2026-11-01_120000",
    kind: str = "field",
    preset: str | None = None,
    steps: int = 100,
    done: int = 100,
    metrics: Sequence[Mapping[str, Any]] = ({"loss": 0.5, "psnr": 20.0}, {"loss": 0.25, "psnr": 24.0}),
    evaluation: Mapping[str, Any] | None = None,
    budget: float | None = None,
    **settings: Any,
) -> Path:
    """ROOT/<data>/PLUGIN/STAMP; rows of metrics are spread over the steps, a tenth of a second each."""
    path = root / Path(data).name / plugin / stamp
    (path / "checkpoints").mkdir(parents=True)
    run = RunFolder(path)
    config = RunConfig(
        plugin, preset, {"steps": steps, **settings}, DataSettings(data), {}, kind, budget_seconds=budget
    )  # fmt: skip
    run.write_config(config)
    with run.metrics_file.open("w") as file:
        for i, row in enumerate(metrics):
            step = (done * (i + 1)) // len(metrics) - 1
            file.write(json.dumps({"step": step, "seconds": 0.1 * (step + 1), **row}) + "\n")
    run.checkpoint_path(done).write_bytes(b"x" * 1000)
    if evaluation is not None:
        run.eval_file.write_text(json.dumps(evaluation))
    return path
