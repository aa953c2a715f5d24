"""Every built-in plugin passes the conformance kit on the CPU, as any other plugin must."""

from __future__ import annotations

import pytest

from studio.registry import list_plugins
from studio.testing import check_plugin

BUILT_IN = ("splat", "nerf", "ngp", "vae", "gan", "diffusion", "gpt", "caption")


def test_the_list_is_complete() -> None:
    installed = {entry.name for entry in list_plugins() if entry.distribution == "neural-studio"}
    assert installed == set(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_conformance(name: str) -> None:
    report = check_plugin(name, device="cpu").require()
    assert report["resumes exactly"].message == "bit for bit"


@pytest.mark.cuda
@pytest.mark.parametrize("name", BUILT_IN)
def test_conformance_on_a_gpu(name: str) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    check_plugin(name, device="cuda").require()
