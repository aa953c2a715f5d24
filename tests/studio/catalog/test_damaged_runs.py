"""One run that is damaged, in whatever way, is listed as such; all others are listed as ever."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from run_folders import write_run

from studio.catalog import find_runs
from studio.cli.main import main
from studio.errors import StudioError
from studio.training.run import RunFolder

CONFIG = "plugin: diffusion\npreset: null\nconfig: {steps: 10}\ndata: {path: toy:moons}\ninfo: {}\nkind: generator\n"


def bomb() -> str:
    lines = ["    - &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"    - &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return CONFIG.replace("config: {steps: 10}", "config:\n  bomb:\n" + "\n".join(lines))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (b"", "must be a mapping of fields, not empty"),
        (b"[1, 2]", "must be a mapping of fields, not a list"),
        (b"plugin: " + b"[" * 2000, "nested deeper"),
        (b"plugin: \xff\xfe\n", "not text in UTF-8"),
        (CONFIG.encode("utf-16"), "UTF-16"),
        (bomb().encode(), "an alias"),
        (CONFIG.replace("diffusion", "2020-99-99 ").encode(), ""),
        (CONFIG.replace("diffusion", "[a]").encode(), "the field 'plugin' is a list"),
        (CONFIG.replace("kind: generator", "").encode(), "the field 'kind' is missing"),
        (CONFIG.replace("{path: toy:moons}", "{path: 5}").encode(), "data: the field 'path' is the number 5"),
        (CONFIG.replace("{path: toy:moons}", "{}").encode(), "data: the field 'path' is missing"),
        (CONFIG.replace("{steps: 10}", "{1: 10}").encode(), "the field 'config' is a mapping"),
        ((CONFIG + "seed: 1e99\n").encode(), "the field 'seed' is"),
        ((CONFIG + "seed: " + "9" * 99 + "\n").encode(), "the field 'seed' is the number 9"),
        ((CONFIG + "budget_seconds: .nan\n").encode(), "the field 'budget_seconds' is the number nan"),
        ((CONFIG + "extra: 1\n").encode(), "the unknown field 'extra'"),
        ((CONFIG + "kind: field\n").encode(), "the name 'kind' stands twice"),
        (CONFIG.replace("{steps: 10}", "{steps: .inf, lr: .nan, big: " + "9" * 90 + ", x: [.nan]}").encode(), ""),
    ],
)
def test_configurations(tmp_path: Path, config: bytes, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_run(tmp_path, stamp="2026-11-01_120000")
    bad = tmp_path / "bad"
    (bad / "checkpoints").mkdir(parents=True)
    (bad / "config.yaml").write_bytes(config)
    runs = {run.path: run for run in find_runs(tmp_path)}
    assert runs[bad].status == ("damaged" if words else "stopped")
    assert words in runs[bad].problem
    assert "\n" not in runs[bad].problem
    assert runs[good].status == "finished"
    if words:
        with pytest.raises(StudioError, match=r"config\.yaml: .*Train the run again") as caught:
            RunFolder(bad).read_config()
        assert words in str(caught.value)
    assert main(["runs", str(tmp_path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert main(["runs", str(tmp_path)]) == 0


def spoil_pipe(run: Path) -> None:
    os.mkfifo(run / "eval.json")


def spoil_metrics_pipe(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")


SPOILED: dict[str, Callable[[Path], object]] = {
    "deep eval": lambda run: (run / "eval.json").write_text("[" * 100_000),
    "eval is a list": lambda run: (run / "eval.json").write_text("[1]"),
    "eval with huge number": lambda run: (run / "eval.json").write_text('{"mean": {"psnr": 1' + "0" * 400 + "}}"),
    "eval is a pipe": spoil_pipe,
    "metrics are a pipe": spoil_metrics_pipe,
    "deep metrics": lambda run: (run / "metrics.jsonl").write_text("[" * 100_000 + "\n"),
    "metrics not UTF-8": lambda run: (run / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff\n'),
    "a row is a list": lambda run: (run / "metrics.jsonl").write_text('{"step": 1}\n[1]\n'),
    "a step of 400 digits": lambda run: (run / "metrics.jsonl").write_text('{"step": 1' + "0" * 400 + "}\n"),
    "seconds are a text": lambda run: (run / "metrics.jsonl").write_text('{"step": 1, "seconds": "x", "loss": NaN}\n'),
    "deep environment": lambda run: (run / "environment.json").write_text('{"started":' * 9999),
    "started is a list": lambda run: (run / "environment.json").write_text('{"started": [1]}'),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_other_files(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, stamp="one")
    SPOILED[kind](run)
    assert [record.path for record in find_runs(tmp_path)] == [run]
    assert main(["runs", str(tmp_path), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["plugin"] == "splat"


def test_rewinding_metrics_loses_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    rows = [{"step": i, "loss": 0.5, "text": "a\u2028b"} for i in range(4)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    run.metrics_file.write_text("\n".join(lines) + '\n{"step": 4, "lo', encoding="utf-8")
    assert run.read_metrics() == rows
    run.rewind_metrics(2)
    assert run.read_metrics() == rows[:2]
    for bad in ("[1]", "{}", '{"step": "x"}', "[" * 100_000, "\udcff", '{"step": true}'):
        text = "\n".join([lines[0], bad, *lines[2:], ""])
        run.metrics_file.write_text(text, encoding="utf-8", errors="surrogateescape")
        before = run.metrics_file.read_bytes()
        with pytest.raises(StudioError, match=r"metrics\.jsonl: line 2 is no row with a step"):
            run.rewind_metrics(9)
        assert run.metrics_file.read_bytes() == before
