"""Distributions as pip leaves them in site-packages: a module and a folder of metadata with an entry point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_SPEC = """
from studio.plugin.spec import PluginSpec
SPEC = PluginSpec(
    name={name!r},
    kind="generator",
    summary="One of many.",
    target="{module}:Model",
    config="{module}:Config",
    api={api!r},
)
"""


def install_plugin(
    site: Path,
    name: str,
    *,
    distribution: str | None = None,
    module: str | None = None,
    before: str = "",
    api: str = ">=1,<2",
) -> None:
    """Put a plugin's declaration there.

    Args:
        before: Python that runs when the declaration is imported.
    """
    distribution = distribution or f"many-{name}"
    module = module or distribution.replace("-", "_")
    (site / f"{module}.py").write_text(before + "\n" + _SPEC.format(name=name, module=module, api=api))
    install_extensions(site, distribution, {"studio.plugins": {name: f"{module}:SPEC"}})


def install_extensions(site: Path, distribution: str, groups: Mapping[str, Mapping[str, str]]) -> Path:
    """Put there what pip leaves of a distribution with entry points: group -> name -> 'module:OBJECT'; no modules."""
    metadata = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return site


def install_thirty(site: Path) -> dict[str, str]:
    """26 sound plugins, one whose import hangs, and three broken ones; returns the status of each."""
    for i in range(26):
        install_plugin(site, f"plain-{i:02d}")
    install_plugin(site, "hangs", before="import time; time.sleep(600)")
    install_plugin(site, "raises", before="raise RuntimeError('no good today')")
    install_plugin(site, "lacks", before="import a_package_that_nobody_has")
    install_plugin(site, "future", api=">=9")
    sound = {f"plain-{i:02d}": "ok" for i in range(26)}
    return sound | dict.fromkeys(("hangs", "raises", "lacks", "future"), "broken")
