"""Runs in a subprocess of its own: tries one package and prints what came of it as one line of JSON.

Importing a package of compiled code can crash or hang; then only this process does.
Usage: `python -m studio.devices.probe NAME`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

_DEBIAN_PACKAGES = {
    "libusb-1.0": "libusb-1.0-0",
    "libGL": "libgl1",
    "libEGL": "libegl1",
    "libgomp": "libgomp1",
    "libX11": "libx11-6",
    "libXrender": "libxrender1",
    "libSM": "libsm6",
    "libglib-2.0": "libglib2.0-0",
    "libgthread-2.0": "libglib2.0-0",
    "libOpenGL": "libopengl0",
}


class Unavailable(Exception):
    """The package is there but cannot do its work; says why and what helps."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


def probe(name: str) -> dict[str, Any]:
    """Try a package: {"version": ..., "details": {...}}, or {"reason": ..., "fix": ...} if it does not work."""
    try:
        return _SPECIAL[name]() if name in _SPECIAL else {"version": _import(name), "details": {}}
    except Unavailable as failure:
        return {"reason": failure.reason, "fix": failure.fix}
    except BaseException as error:  # a package may raise anything while it is imported, SystemExit included
        reason, fix = explain(name, error)
        return {"reason": reason, "fix": fix}


def explain(name: str, error: BaseException) -> tuple[str, str]:
    """Why importing a package failed, in one line, and what to do about it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    library = re.search(r"(lib[\w.+-]+?)\.so[.\d]*: cannot open shared object file", str(error))
    if library:
        stem = library[1]
        package = _DEBIAN_PACKAGES.get(stem)
        fix = f"apt-get install {package}" if package else f"Install the system package that contains {stem}.so."
        return f"the system library {library[0].partition(':')[0]} is missing", fix
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != name:
        return f"it needs the package '{error.name}', which is not installed", f"pip install {error.name}"
    return f"{type(error).__name__}: {lines[0]}", f"pip install --force-reinstall {name}"


def _import(name: str) -> str:
    module = importlib.import_module(name)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(module, "__version__", "version unknown"))


def _torch() -> dict[str, Any]:
    version = _import("torch")
    import torch

    from studio.devices.device import DeviceKind
    from studio.devices.torch_probe import TorchProbe

    found = TorchProbe()
    devices = found.devices()
    kinds = {device.kind for device in devices}
    # A kind that this system can never have is no news.
    possible: DeviceKind = "mps" if sys.platform == "darwin" else "cuda"
    absences = {} if possible in kinds else {possible: found.absence(possible)}
    return {
        "version": torch.__version__ or version,
        "details": {
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "mkldnn": torch.backends.mkldnn.is_available(),
            "threads": torch.get_num_threads(),
            "devices": [device.to_dict() for device in devices],
            "absent": {kind: {"reason": a.reason, "fix": a.fix} for kind, a in absences.items()},
        },
    }


def _gsplat() -> dict[str, Any]:
    version = _import("gsplat")
    import torch

    if not torch.cuda.is_available():
        raise Unavailable(
            f"{version} is installed, but torch {torch.__version__} has no CUDA device to run it on",
            "The CPU kernels are used instead.",
        )
    if importlib.util.find_spec("gsplat.csrc") is not None:
        return {"version": version, "details": {"kernels": "compiled"}}
    from torch.utils.cpp_extension import CUDA_HOME

    if CUDA_HOME is None:
        raise Unavailable(
            f"{version} is installed without compiled kernels, and there is no CUDA toolkit to compile them with",
            "Install a wheel with kernels (https://docs.gsplat.studio/whl), or the CUDA toolkit.",
        )
    return {"version": version, "details": {"kernels": "compiled at first use, for some minutes"}}


def _lpips() -> dict[str, Any]:
    from studio.errors import StudioError
    from studio.metrics import load_lpips

    try:
        model = load_lpips("vgg")
    except StudioError as error:
        raise Unavailable(error.message.rstrip("."), error.fix or "") from error
    return {"version": f"{model.network} weights", "details": {}}


def _ffmpeg() -> dict[str, Any]:
    try:
        path = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
        text = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise Unavailable(
            str(error).splitlines()[0], "pip install --force-reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE"
        ) from error
    match = re.match(r"ffmpeg version (\S+)", text)
    return {"version": match[1] if match else "version unknown", "details": {"path": path}}


_SPECIAL: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": _torch,
    "gsplat": _gsplat,
    "lpips": _lpips,
    "ffmpeg": _ffmpeg,
}


if __name__ == "__main__":
    print("\n" + json.dumps(probe(sys.argv[1])), flush=True)
