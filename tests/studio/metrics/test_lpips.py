"""LPIPS with random weights against a straightforward computation; the trained weights never enter the tests."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from studio.errors import StudioError
from studio.metrics import Lpips, find_lpips, load_lpips

VGG = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


def _torchvision_features(network: str) -> nn.Sequential:
    """The `features` part as torchvision defines it, so that the state dict has the published keys."""
    if network == "alex":
        return nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
    layers: list[nn.Module] = []
    channels = 3
    for step in VGG:
        if isinstance(step, int):
            layers += [nn.Conv2d(channels, step, 3, padding=1), nn.ReLU()]
            channels = step
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def _weights(network: str, seed: int = 0) -> tuple[nn.Sequential, dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(seed)
    features = _torchvision_features(network)
    backbone = {f"features.{key}": value.clone() for key, value in features.state_dict().items()}
    backbone["classifier.6.weight"] = torch.rand(4, 4)  # the published file has the classifier as well
    linear = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(CHANNELS[network])}
    return features, backbone, linear


def _direct(network: str, features: nn.Sequential, linear: dict[str, Tensor], x: Tensor, y: Tensor) -> float:
    """Equation 1 of the paper in float64, one layer and one pixel sum at a time."""
    mean, deviation = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    taps: list[list[np.ndarray]] = []
    for picture in (x, y):
        scaled = (picture.double().numpy() * 2 - 1 - mean) / deviation
        value = torch.from_numpy(scaled).permute(2, 0, 1)[None]
        kept = []
        for index, layer in enumerate(features.double()):
            value = layer(value)
            if index in TAPS[network]:
                kept.append(value[0].detach().numpy())
        taps.append(kept)
    total = 0.0
    for i, (a, b) in enumerate(zip(*taps, strict=True)):
        a = a / (np.sqrt((a**2).sum(axis=0)) + 1e-10)
        b = b / (np.sqrt((b**2).sum(axis=0)) + 1e-10)
        weight = linear[f"lin{i}.model.1.weight"].double().numpy().reshape(-1, 1, 1)
        total += (weight * (a - b) ** 2).sum(axis=0).mean()
    return total


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_equals_a_straightforward_computation(network: str, tmp_path: Path) -> None:
    features, backbone, linear = _weights(network)
    torch.save(backbone, tmp_path / "backbone.pth")
    torch.save(linear, tmp_path / "linear.pth")
    model = load_lpips(network, [tmp_path / "backbone.pth", tmp_path / "linear.pth"])  # type: ignore[arg-type]
    x, y = torch.rand(2, 70, 85, 3)
    expected = _direct(network, features, linear, x, y)
    assert model(x, y).item() == pytest.approx(expected, rel=2e-4)
    assert model.double()(x.double(), y.double()).item() == pytest.approx(expected, rel=1e-6)
    assert model(x.double(), x.double()).item() == 0.0
    batch = model(torch.stack([x, y]).double(), torch.stack([y, y]).double())
    assert batch.tolist() == pytest.approx([expected, 0.0], rel=1e-6)


def test_published_layouts_are_found_in_a_folder_and_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    _, backbone, linear = _weights("alex")
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save(backbone, folder / "alexnet-owt-7be5be79.pth", _use_new_zipfile_serialization=False)
    torch.save(linear, folder / "alex.pth")
    save_file(backbone | linear, tmp_path / "all.safetensors")
    x, y = torch.rand(2, 64, 64, 3)
    expected = load_lpips("alex", folder)(x, y)
    assert torch.equal(load_lpips("alex", tmp_path / "all.safetensors")(x, y), expected)
    monkeypatch.setenv("STUDIO_LPIPS_WEIGHTS", os.pathsep.join(map(str, folder.iterdir())))
    model, reason = find_lpips("alex")
    assert model is not None
    assert reason == "alex"
    assert torch.equal(model(x, y), expected)
    model, reason = find_lpips("vgg")
    assert model is None
    assert "backbone weights missing or of another network" in reason


def test_without_weights_it_says_why_and_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("tried the network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.delenv("STUDIO_LPIPS_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model, reason = find_lpips("vgg")
    assert model is None
    assert "STUDIO_LPIPS_WEIGHTS" in reason
    assert "nothing is downloaded" in reason


def test_broken_files_are_named(tmp_path: Path) -> None:
    _, backbone, linear = _weights("alex")
    torch.save(backbone, tmp_path / "backbone.pth")
    whole = (tmp_path / "backbone.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "half.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{")
    torch.save(nn.Linear(2, 2), tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, words in {
        "half.pth": "not readable",
        "half.safetensors": "not readable as safetensors",
        "code.pth": "not readable as weights",
        "list.pth": "no table",
        "absent.pth": "no such file",
    }.items():
        with pytest.raises(StudioError, match=f"{name}.*{words}") as caught:
            load_lpips("alex", tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(StudioError, match="linear layers weights missing"):
        load_lpips("alex", tmp_path / "backbone.pth")
    linear["lin2.model.1.weight"] = torch.rand(1, 7, 1, 1)
    torch.save(linear, tmp_path / "linear.pth")
    with pytest.raises(StudioError, match=r"linear\.2"):
        load_lpips("alex", [tmp_path / "backbone.pth", tmp_path / "linear.pth"])


def test_gradient_reaches_the_picture_and_not_the_weights() -> None:
    model = Lpips("alex")
    x = torch.rand(40, 40, 3, requires_grad=True)
    model(x, torch.rand(40, 40, 3)).backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="network"):
        Lpips("squeeze")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"at least 31 pixels.*20x40"):
        Lpips("alex")(torch.rand(40, 20, 3), torch.rand(40, 20, 3))
