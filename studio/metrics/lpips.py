"""LPIPS (Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features", CVPR 2018).

The network is written here in plain torch. Its trained weights are the user's to bring: nothing is ever downloaded.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from studio.errors import StudioError
from studio.metrics.masked import check_pair

Network = Literal["alex", "vgg"]
WEIGHTS_VARIABLE = "STUDIO_LPIPS_WEIGHTS"


@dataclass(frozen=True)
class _Convolution:
    index: int
    """Position in torchvision's `features`, which names the weights in its files."""
    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True)
class _Pool:
    kernel: int


# Each inner tuple is one slice; LPIPS reads the activation after its last convolution's ReLU.
_SLICES: dict[Network, tuple[tuple[_Convolution | _Pool, ...], ...]] = {
    "alex": (
        (_Convolution(0, 3, 64, kernel=11, stride=4, padding=2),),
        (_Pool(3), _Convolution(3, 64, 192, kernel=5, padding=2)),
        (_Pool(3), _Convolution(6, 192, 384, kernel=3)),
        (_Convolution(8, 384, 256, kernel=3),),
        (_Convolution(10, 256, 256, kernel=3),),
    ),
    "vgg": (
        (_Convolution(0, 3, 64, 3), _Convolution(2, 64, 64, 3)),
        (_Pool(2), _Convolution(5, 64, 128, 3), _Convolution(7, 128, 128, 3)),
        (_Pool(2), _Convolution(10, 128, 256, 3), _Convolution(12, 256, 256, 3), _Convolution(14, 256, 256, 3)),
        (_Pool(2), _Convolution(17, 256, 512, 3), _Convolution(19, 512, 512, 3), _Convolution(21, 512, 512, 3)),
        (_Pool(2), _Convolution(24, 512, 512, 3), _Convolution(26, 512, 512, 3), _Convolution(28, 512, 512, 3)),
    ),
}
_SMALLEST: dict[Network, int] = {"alex": 31, "vgg": 16}
_BACKBONE_FILES: dict[Network, str] = {"alex": "alexnet-*.pth", "vgg": "vgg16-*.pth"}
# ImageNet's mean and deviation, expressed for inputs in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """Learned perceptual distance, version 0.1 (linear calibration); 0 for equal pictures, lower is better.

    Args:
        network: "vgg" as most papers on view synthesis report, or "alex", the authors' recommendation.

    The figure is that of the reference code with pictures mapped to [-1, 1]. Papers that follow the published code of
    Gaussian splatting fed it pictures in [0, 1] instead; their figures are not comparable to the last digits.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: Network = "vgg") -> None:
        super().__init__()
        if network not in _SLICES:
            raise ValueError(f"network must be one of {sorted(_SLICES)}, got {network!r}")
        self.network: Network = network
        self.features = nn.ModuleDict()
        self.linear = nn.ParameterList()
        for layers in _SLICES[network]:
            for layer in layers:
                if isinstance(layer, _Convolution):
                    self.features[str(layer.index)] = nn.Conv2d(
                        layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.padding
                    )
                    channels = layer.out_channels
            self.linear.append(nn.Parameter(torch.full((channels,), 1.0 / channels)))
        self.register_buffer("shift", torch.tensor(_SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(
        self, prediction: Float[Tensor, "*batch h w 3"], target: Float[Tensor, "*batch h w 3"]
    ) -> Float[Tensor, "*batch"]:
        """Distance of each pair of pictures in [0, 1]; differentiable in the pictures.

        Raises:
            ValueError: Shapes do not fit, not RGB, or smaller than the network can see (31 pixels alex, 16 vgg).
        """
        check_pair(prediction, target, None)
        height, width, channels = prediction.shape[-3:]
        smallest = _SMALLEST[self.network]
        if channels != 3 or min(height, width) < smallest:
            raise ValueError(
                f"LPIPS ({self.network}) needs RGB pictures of at least {smallest} pixels a side, "
                f"got {width}x{height} with {channels} channels"
            )
        both = torch.cat([t.reshape(-1, height, width, 3) for t in (prediction, target)])
        x = (both.movedim(-1, -3).to(self.linear[0].dtype) * 2 - 1 - self.shift) / self.scale
        distance = x.new_zeros(x.shape[0] // 2)
        for layers, weight in zip(_SLICES[self.network], self.linear, strict=True):
            for layer in layers:
                x = (
                    F.max_pool2d(x, layer.kernel, stride=2)
                    if isinstance(layer, _Pool)
                    else F.relu(self.features[str(layer.index)](x))
                )
            unit = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)
            first, second = unit.chunk(2)
            difference = (first - second).square().mean(dim=(-2, -1))
            distance = distance + difference @ weight
        return distance.reshape(prediction.shape[:-3])


def load_lpips(
    network: Network = "vgg", weights: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None
) -> Lpips:
    """LPIPS with trained weights from files on this computer.

    Args:
        network: Which backbone.
        weights: One or several files or folders; default: the environment variable STUDIO_LPIPS_WEIGHTS (several
            joined by the system's path separator), then what an installed `lpips` package and torch's own cache hold.
            Together they give the backbone as torchvision publishes it (`vgg16-397923af.pth`,
            `alexnet-owt-7be5be79.pth`) and the linear layers as LPIPS publishes them (`vgg.pth`, `alex.pth`), or one
            `.safetensors` with the keys of both (`features.N.weight`, `features.N.bias`, `linN.model.1.weight`).
            In a folder the files are found by these names.

    Raises:
        StudioError: A file is missing, unreadable, or holds other weights.
    """
    if network not in _SLICES:
        raise ValueError(f"network must be one of {sorted(_SLICES)}, got {network!r}")
    if weights is None:
        named = [part for part in os.environ.get(WEIGHTS_VARIABLE, "").split(os.pathsep) if part]
        places = [Path(part) for part in named] or _usual_places()
    elif isinstance(weights, (str, os.PathLike)):
        places, named = [Path(weights)], [str(weights)]
    else:
        places = [Path(part) for part in weights]
        named = [str(part) for part in places]

    found: dict[str, Tensor] = {}
    for file in _files(network, places):
        found.update({key: value for key, value in _read(file).items() if isinstance(value, Tensor)})

    model = Lpips(network)
    state = _match(model, found)
    where = ", ".join(named) if named else "no file named"
    for part, keys, example in (
        ("backbone", [k for k in state if k.startswith("features.")], _BACKBONE_FILES[network]),
        ("linear layers", [k for k in state if k.startswith("linear.")], f"{network}.pth"),
    ):
        if absent := [key for key in keys if state[key] is None]:
            raise StudioError(
                f"LPIPS ({network}): {part} weights missing or of another network ({where}; first: {absent[0]}).",
                fix=f"Name the file ({example}, or one .safetensors) in {WEIGHTS_VARIABLE}; nothing is downloaded.",
            )
    model.load_state_dict({key: value for key, value in state.items() if value is not None})
    return model


def find_lpips(network: Network = "vgg") -> tuple[Lpips | None, str]:
    """LPIPS if its weights are on this computer, else None, and in words where it stands.

    Returns:
        (model, "vgg") or (None, the reason). Weights that STUDIO_LPIPS_WEIGHTS names but cannot be used are a reason,
        too: an evaluation still gives its other figures.
    """
    try:
        return load_lpips(network), network
    except StudioError as error:
        return None, str(error)


def _usual_places() -> list[Path]:
    """Where the two published packages keep their weights, without importing either."""
    places = [Path(torch.hub.get_dir()) / "checkpoints"]
    package = importlib.util.find_spec("lpips")
    if package is not None and package.submodule_search_locations:
        places += [Path(folder) / "weights" / "v0.1" for folder in package.submodule_search_locations]
    return [place for place in places if place.is_dir()]


def _files(network: Network, places: Sequence[Path]) -> list[Path]:
    files = []
    for place in places:
        if place.is_dir():
            names = (
                _BACKBONE_FILES[network],
                f"{network}.pth",
                f"lpips_{network}.safetensors",
                f"{network}.safetensors",
            )
            files += [file for name in names for file in sorted(place.glob(name))]
        elif place.is_file():
            files.append(place)
        else:
            raise StudioError(f"{place}: no such file or folder.", fix=f"Correct {WEIGHTS_VARIABLE} or the argument.")
    return files


def _read(file: Path) -> Mapping[str, object]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudioError(f"{file}: not readable as weights ({reason}).", fix="Fetch the file again.") from error
    except Exception as error:
        # safetensors raises its own type, which derives from Exception directly.
        if type(error).__name__ != "SafetensorError":
            raise
        raise StudioError(f"{file}: not readable as safetensors ({error}).", fix="Fetch the file again.") from error
    if not isinstance(content, Mapping):
        raise StudioError(f"{file}: holds no table of weights.", fix="Name a .pth state dict or a .safetensors file.")
    return content


def _match(model: Lpips, found: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """The published weights under this module's names; None where absent or of another shape."""
    state: dict[str, Tensor | None] = {}
    for key, own in model.state_dict().items():
        if key.startswith("linear."):
            value = found.get(f"lin{key.removeprefix('linear.')}.model.1.weight")
            value = value.flatten() if value is not None else None
        else:
            value = found.get(key)
        state[key] = value if value is not None and value.shape == own.shape else None
    return state
