"""What the tests of several plugins do alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from studio.plugin import Plugin, PluginConfig
from studio.training.start import TrainOptions, prepare, prepare_resume


@pytest.fixture
def assert_resume_is_exact(tmp_path: Path) -> Callable[[str, str, PluginConfig], Plugin]:
    """Train in one go and in two; fails unless all tensors are equal to the last bit. Gives the plugin of one go."""

    def check(plugin: str, data: str, settings: PluginConfig) -> Plugin:
        half = settings.steps // 2
        options = TrainOptions(output=tmp_path / "runs", tensorboard=False, log_every=1, checkpoint_steps=half)
        whole = prepare(plugin, data, settings, options)
        whole.train()
        cut = prepare(plugin, data, settings, options)
        cut.trainer.settings = dataclasses.replace(cut.trainer.settings, total_steps=half)
        cut.train()
        torch.manual_seed(999)
        resumed = prepare_resume(cut.run.path, options)
        assert resumed.trainer.step == half
        resumed.train()
        continued = resumed.plugin.state_dict()
        for name, tensor in whole.plugin.state_dict().items():
            assert torch.equal(tensor, continued[name]), name
        return whole.plugin

    return check
