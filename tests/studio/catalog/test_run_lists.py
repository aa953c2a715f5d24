"""Finding, choosing, comparing and deleting runs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import write_run

from studio.catalog import (
    RunRecord,
    compare_runs,
    find_runs,
    parse_filter,
    plan_removal,
    read_run,
    select_runs,
    sort_runs,
)
from studio.errors import StudioError
from studio.training.running import is_running, mark_running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    write_run(folder, stamp="2026-11-01_120000", preset="quick", sh_degree=3)
    measured = {"mean": {"psnr": 31.5, "ssim": 0.9, "seconds": 1}}
    write_run(folder, stamp="2026-11-02_080000", sh_degree=1, done=40, evaluation=measured)
    write_run(
        folder, "gan", data="/data/digits", kind="generator", stamp="2026-10-30_235959",
        metrics=[{"loss": 1.0}], evaluation={"figures": {"fid": 12.5, "kid": "inf"}},
    )  # fmt: skip
    return folder


def by_plugin(runs: list[RunRecord], plugin: str) -> RunRecord:
    return next(run for run in runs if run.plugin == plugin)


def test_what_is_found_out(root: Path) -> None:
    newest, first, gan = find_runs(root)
    assert [run.started for run in (newest, first, gan)] == [
        "2026-11-02T08:00:00", "2026-11-01T12:00:00", "2026-10-30T23:59:59",
    ]  # fmt: skip
    assert (first.name, first.plugin, first.preset, first.data, first.kind) == (
        "room/splat/2026-11-01_120000", "splat", "quick", "room", "field",
    )  # fmt: skip
    assert (first.step, first.total_steps, first.status, first.seconds) == (100, 100, "finished", 10.0)
    assert (newest.step, newest.status) == (40, "stopped")
    # Measured figures win over those of the training; infinities and the time of a render are no figures.
    assert (newest.metrics, newest.measured) == ({"psnr": 31.5, "ssim": 0.9}, "held out")
    assert (first.metrics, first.measured) == ({"loss": 0.25, "psnr": 24.0}, "training")
    assert (gan.metrics, gan.main_metric) == ({"fid": 12.5}, ("fid", 12.5))
    assert first.size == sum(path.lstat().st_size for path in first.path.rglob("*") if path.is_file())
    assert (first.get("sh_degree"), first.get("data.path"), first.get("nothing")) == (3, "/photos/room", None)
    assert read_run(first.path) == first


def test_a_used_up_budget_is_an_end(tmp_path: Path) -> None:
    path = write_run(tmp_path, steps=10_000, done=300, budget=30.5)
    assert read_run(path).status == "finished"
    assert read_run(write_run(tmp_path, steps=10_000, done=300, budget=60, stamp="b")).status == "stopped"


def test_folders_that_are_no_runs(root: Path, tmp_path: Path) -> None:
    (root / "other").mkdir()
    (root / "other" / "config.yaml").write_text("a: 1")
    broken = write_run(root, stamp="broken")
    (broken / "config.yaml").write_text("plugin: [")
    write_run(root / ".hidden")
    write_run(tmp_path / "outside")
    (root / "link").symlink_to(tmp_path / "outside")
    runs = find_runs(root)
    assert len(runs) == 4
    damaged = next(run for run in runs if run.status == "damaged")
    assert "config.yaml: is not a readable document" in damaged.problem
    with pytest.raises(StudioError, match="there is no such folder"):
        find_runs(tmp_path / "nowhere")


def test_a_run_is_running_as_long_as_its_process_lives(root: Path) -> None:
    run = by_plugin(find_runs(root), "gan")
    metrics = run.path / "metrics.jsonl"
    hold = (
        "import sys; from studio.training.running import mark_running; file = open(sys.argv[1], 'a'); "
        "mark_running(file); print(1, flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", hold, str(metrics)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    assert read_run(run.path).status == "running"
    with pytest.raises(StudioError, match="is being trained"):
        plan_removal([run.path])
    process.kill()
    process.communicate()
    assert read_run(run.path).status == "finished"
    assert not is_running(root / "nothing")


def test_training_marks_its_run(toy_plugins: None, tmp_path: Path) -> None:
    from studio.training.loop import Observer, Trainer
    from studio.training.start import TrainOptions, train

    seen = []

    class Look(Observer):
        def on_step(self, trainer: Trainer, step: int) -> None:
            seen.append(read_run(trainer.run.path).status)

    options = TrainOptions(output=tmp_path, tensorboard=False)
    run = train("toy-gauss", "toy:moons", options=options, observers=[Look()], steps=2)
    assert seen == ["running", "running"]
    record = read_run(run.path, tmp_path)
    assert (record.status, record.step, record.data) == ("finished", 2, "toy:moons")
    assert record.main_metric is not None
    assert record.main_metric[0] == "loss"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plugin=splat", 2),
        ("plugin = SPLAT", 2),
        ("plugin!=splat", 1),
        ("psnr>24", 1),
        ("psnr>=24.0", 2),
        ("psnr<30", 1),
        ("fid<=12.5", 1),
        ("data~oo", 2),
        ("time>=2026-11-02", 1),
        ("time<2026-11-01", 1),
        ("status=stopped", 1),
        ("sh_degree=1", 1),
        ("size>1_000", 3),
        ("preset=quick", 1),
        # No order among texts, and none with what is not there.
        ("plugin>5", 0),
        ("ssim<1", 1),
    ],
)
def test_filters(root: Path, text: str, expected: int) -> None:
    assert len(select_runs(find_runs(root), [parse_filter(text)])) == expected


def test_filters_are_all_needed_and_mistakes_are_told(root: Path) -> None:
    runs = find_runs(root)
    assert select_runs(runs, [parse_filter("plugin=splat"), parse_filter("psnr>24")]) == runs[:1]
    with pytest.raises(StudioError, match=r"no run has a field 'pnsr'\. Did you mean 'psnr'"):
        select_runs(runs, [parse_filter("pnsr>24")])
    with pytest.raises(StudioError, match="'plugin': is no comparison"):
        parse_filter("plugin")
    with pytest.raises(StudioError, match="'high' is not a number"):
        parse_filter("psnr>high")
    with pytest.raises(StudioError, match="--sort: no run has a field 'sise'"):
        sort_runs(runs, "sise")


def test_sorting_puts_the_best_first_and_the_unmeasured_last(root: Path) -> None:
    runs = find_runs(root)
    assert [run.get("psnr") for run in sort_runs(runs, "psnr")] == [31.5, 24.0, None]
    assert [run.get("psnr") for run in sort_runs(runs, "psnr", reverse=True)] == [24.0, 31.5, None]
    write_run(root, "gan", data="/data/digits", kind="generator", evaluation={"figures": {"fid": 3.0}})
    runs = find_runs(root)
    assert [run.get("fid") for run in sort_runs(runs, "fid")][:2] == [3.0, 12.5]
    assert [run.plugin for run in sort_runs(runs, "plugin")] == ["gan", "gan", "splat", "splat"]
    assert sort_runs(runs, "time")[0].started == "2026-11-02T08:00:00"


def test_comparing(root: Path) -> None:
    newest, first, gan = find_runs(root)
    comparison = compare_runs([newest, first])
    assert comparison.settings == {"preset": ("", "quick"), "sh_degree": (1, 3)}
    assert comparison.metrics == {"psnr": (31.5, 24.0), "ssim": (0.9, None), "loss": (None, 0.25)}
    assert (comparison.best("psnr"), comparison.best("ssim")) == (0, None)
    assert comparison.names == ("splat", "splat quick")
    other = replace(first, metrics={"loss": 0.1, "Gaussians": 5.0, "psnr": 24.0})
    both = compare_runs([first, replace(other, name="x", path=Path("x"))])
    assert (both.best("loss"), both.best("psnr"), both.best("Gaussians")) == (1, None, None)
    # Equal but for a setting: that is their name.
    twins = [replace(first, settings={**first.settings, "sh_degree": degree}) for degree in (0, 3)]
    assert compare_runs(twins).names == ("splat sh_degree=0", "splat sh_degree=3")
    mixed = compare_runs([first, gan])
    assert "sh_degree" in mixed.left_out
    assert mixed.settings["plugin"] == ("splat", "gan")
    assert mixed.names == ("splat", "gan")


def test_removing(root: Path, tmp_path: Path) -> None:
    newest, first, gan = find_runs(root)
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "photo.txt").write_text("keep")
    (first.path / "link").symlink_to(outside)
    removal = plan_removal([first.path, gan.path, first.path])
    assert [run.path for run in removal.runs] == [first.path, gan.path]
    assert removal.size == read_run(first.path).size + gan.size
    removal.carry_out()
    assert [run.path for run in find_runs(root)] == [newest.path]
    assert (outside / "photo.txt").read_text() == "keep"
    assert not list(first.path.parent.glob(".*"))


def test_what_is_not_removed(root: Path, tmp_path: Path) -> None:
    newest = find_runs(root)[0]
    (tmp_path / "link").symlink_to(newest.path)
    (tmp_path / "plain").mkdir()
    broken = write_run(root, stamp="broken")
    (broken / "config.yaml").write_text("[")
    nesting = write_run(root, stamp="nesting")
    write_run(nesting)
    before = sorted(root.rglob("*"))
    for path, message in (
        (root, "is no run folder, but holds 5 of them. Name each run"),
        (tmp_path / "plain", r"is no run folder \(no config.yaml\)"),
        (tmp_path / "nowhere", "there is no such folder"),
        (tmp_path / "link", "is a link. Name the folder itself"),
        (broken, "is not surely a run"),
        (nesting, "holds another run"),
        (newest.path / "config.yaml", "there is no such folder"),
    ):
        with pytest.raises(StudioError, match=message):
            plan_removal([newest.path, path])
    assert sorted(root.rglob("*")) == before


def test_a_folder_that_cannot_be_deleted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = find_runs(root)[0]

    def refuse(source: object, target: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(StudioError, match="cannot be deleted"):
        plan_removal([newest.path]).carry_out()
    assert newest.path.is_dir()


def test_looking_needs_no_torch() -> None:
    code = "import sys, studio.catalog, studio.cli.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_marking_needs_locks_only_where_there_are_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.training.running.fcntl", None)
    with (tmp_path / "x").open("w") as file:
        mark_running(file)
    assert is_running(tmp_path / "x")
    os.utime(tmp_path / "x", (0, 0))
    assert not is_running(tmp_path / "x")
