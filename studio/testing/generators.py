"""Checks of what a Generator's capabilities promise: shapes, types, ranges, and what must agree with what."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from studio.errors import StudioError
from studio.plugin import Generator, SampleOptions
from studio.testing.data import SIDE, SampleData
from studio.testing.report import CheckFailed, NotApplicable
from studio.testing.subject import Subject

_N = 4
_SLACK = 1e-4
_GRID, _REACH = 121, 6.0
"""Points a side of the grid over which the density of points is summed, and its half width."""
_MASS = 0.05
"""How far from 1 the sum may be."""


def _noise(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _data(subject: Subject) -> SampleData:
    assert isinstance(subject.data, SampleData)
    return subject.data


def _given(subject: Subject, generator: Generator, n: int = _N) -> tuple[Any, Any]:
    """Samples on the plugin's device, and the conditions that they come with."""
    x, condition = _data(subject).samples(n)
    return x.to(generator.device) if isinstance(x, Tensor) else x, condition


def _asked(call: Callable[[Any], Any], condition: Any) -> Any:
    """What a call gives with the samples' conditions, or without them where the plugin knows none."""
    if condition is None:
        return call(None)
    try:
        return call(condition)
    except StudioError as refusal:
        try:
            return call(None)
        except StudioError:
            raise refusal from None


def _check_samples(what: str, value: Any, shape: tuple[int, ...], n: int) -> None:
    """Samples (n, *shape), pictures in [0, 1]; or n strings for text, whose shape is ()."""
    if shape == ():
        if not isinstance(value, list) or len(value) != n or not all(isinstance(text, str) for text in value):
            raise CheckFailed(f"{what} is no list of {n} strings.", "Text models return strings.")
        return
    if not isinstance(value, Tensor):
        raise CheckFailed(f"{what} is a {type(value).__name__}, not a tensor.")
    if tuple(value.shape) != (n, *shape):
        raise CheckFailed(f"{what} has shape {tuple(value.shape)}, expected {(n, *shape)}.")
    if value.dtype != torch.float32:
        raise CheckFailed(f"{what} is {value.dtype}, not float32.")
    if value.requires_grad:
        raise CheckFailed(f"{what} carries gradients.", "Put @torch.no_grad() on it.")
    if not bool(value.isfinite().all()):
        raise CheckFailed(f"{what} has values that are not finite.")
    low, high = float(value.min()), float(value.max())
    if len(shape) == 3 and (low < -_SLACK or high > 1 + _SLACK):
        raise CheckFailed(f"{what} has values from {low:.4g} to {high:.4g}; pictures are in [0, 1].", "Clamp them.")


def check_sample(subject: Subject, generator: Generator) -> str | None:
    """Samples of the right shape and range, any number of them, with the declared options, of each class."""
    info = _data(subject).info
    # A captioner's samples are captions, whatever it is trained on.
    texts = isinstance(generator.sample(1, None, _noise()), list)
    shape = () if texts else info.sample_shape
    for n in (1, 3):
        _check_samples(f"sample({n})", generator.sample(n, None, _noise()), shape, n)
    _check_samples("sample(2) without a generator", generator.sample(2), shape, 2)
    options = _check_options(generator)
    _check_samples("sample with its options", generator.sample(2, None, _noise(), **options), shape, 2)
    remark = f"{len(options)} options"
    condition = [0, (info.num_classes or 1) - 1] if info.num_classes else ["a red disc", "a"] if texts else None
    if info.has_captions and not texts:
        condition = list(_data(subject).dataset.captions[:2])
    if condition is not None:
        try:
            _check_samples("sample with a condition", generator.sample(2, condition, _noise()), shape, 2)
        except StudioError:
            remark += ", takes no condition"
    return remark


def _check_options(generator: Generator) -> dict[str, Any]:
    """The defaults of the sampling options."""
    cls = type(generator).sample_options
    if not (isinstance(cls, type) and issubclass(cls, SampleOptions) and dataclasses.is_dataclass(cls)):
        raise CheckFailed("sample_options is no dataclass.", "Subclass studio.plugin.SampleOptions with @dataclass.")
    for f in dataclasses.fields(cls):
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise CheckFailed(f"the sampling option '{f.name}' has no default.")
    chosen = cls()
    return {f.name: getattr(chosen, f.name) for f in dataclasses.fields(cls)}


def _codes(what: str, z: Any, n: int) -> Tensor:
    if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != n or not z.is_floating_point():
        shape = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise CheckFailed(f"{what} has shape {shape}, expected ({n}, d).", "Flatten codes: one row a sample.")
    if z.requires_grad:
        raise CheckFailed(f"{what} carries gradients.", "Detach it.")
    if not bool(z.isfinite().all()):
        raise CheckFailed(f"{what} has values that are not finite.")
    return z


def check_encode(subject: Subject, generator: Any) -> str | None:
    """Codes (b, d) of samples, the same every time."""
    x, condition = _given(subject, generator)
    z = _codes("encode(x)", _asked(lambda given: generator.encode(x, given), condition), _N)
    if not torch.allclose(z, _asked(lambda given: generator.encode(x, given), condition), atol=1e-5):
        raise CheckFailed("encode gives other codes the second time.", "Return the mean of what is random.")
    return f"{z.shape[1]} numbers"


def check_decode(subject: Subject, generator: Any) -> str | None:
    """Samples of codes, from `encode`, `invert`, or of the size `latent_dim` of the configuration."""
    x, condition = _given(subject, generator)
    latent = getattr(generator.config, "latent_dim", None)
    if hasattr(generator, "encode"):
        z = _asked(lambda given: generator.encode(x, given), condition)
    elif isinstance(latent, int):
        z = torch.randn(_N, latent, generator=_noise()).to(generator.device)
    else:
        raise NotApplicable("how long a code is, neither encode nor the option latent_dim tells.")
    decoded = _asked(lambda given: generator.decode(z, given), condition)
    _check_samples("decode(z)", decoded, _data(subject).info.sample_shape, _N)
    return None


def check_reconstruct(subject: Subject, generator: Any) -> str | None:
    """Samples in, samples out."""
    x, condition = _given(subject, generator)
    again = _asked(lambda given: generator.reconstruct(x, given, _noise()), condition)
    _check_samples("reconstruct(x)", again, _data(subject).info.sample_shape, _N)
    return f"mean squared error {float((again.to(x) - x).square().mean()):.4f}"


def check_interpolate(subject: Subject, generator: Any) -> str | None:
    """Walks of the asked length, between drawn and between given samples."""
    shape = _data(subject).info.sample_shape
    _check_samples("interpolate(5)", generator.interpolate(5, generator=_noise()), shape, 5)
    x, condition = _given(subject, generator, 2)
    both = None if condition is None else [condition[0]] * 3
    walk = _asked(lambda given: generator.interpolate(3, x[0], x[1], given, _noise()), both)
    _check_samples("interpolate(3, start, end)", walk, shape, 3)
    return None


def check_invert(subject: Subject, generator: Any) -> str | None:
    """Latents (b, d) whose samples are close to the given ones."""
    x, condition = _given(subject, generator, 2)
    z = _codes("invert(x)", _asked(lambda given: generator.invert(x, given, _noise()), condition), 2)
    return f"{z.shape[1]} numbers"


def check_caption(subject: Subject, generator: Any) -> str | None:
    """One sentence a picture."""
    x, _ = _given(subject, generator)
    _check_samples("caption(pictures)", generator.caption(x, _noise()), (), _N)
    return None


def check_likelihood(subject: Subject, generator: Any) -> str | None:
    """Nats of each sample; where it calls itself exact, the density of points sums to one."""
    x, condition = _given(subject, generator)
    nats = _asked(lambda given: generator.log_likelihood(x, given, _noise()), condition)
    if not isinstance(nats, Tensor) or tuple(nats.shape) != (_N,):
        shape = tuple(nats.shape) if isinstance(nats, Tensor) else type(nats).__name__
        raise CheckFailed(
            f"log_likelihood of {_N} samples has shape {shape}, expected ({_N},).", "One number a sample."
        )
    if not bool(nats.isfinite().all()):
        raise CheckFailed("log_likelihood is not finite.")
    kind = getattr(generator, "likelihood_kind", "exact")
    if kind not in ("exact", "bound"):
        raise CheckFailed(f"likelihood_kind is {kind!r}.", "Say 'exact' or 'bound'.")
    if kind != "exact" or _data(subject).info.sample_shape != (2,):
        return str(kind)
    side = torch.linspace(-_REACH, _REACH, _GRID)
    points = torch.cartesian_prod(side, side).to(generator.device)
    total = 0.0
    with torch.no_grad():
        for part in points.split(4096):
            nats = _asked(_density_of(generator, part), None if condition is None else [condition[0]] * len(part))
            total += float(nats.double().exp().sum())
    mass = total * (2 * _REACH / (_GRID - 1)) ** 2
    if abs(mass - 1) > _MASS:
        raise CheckFailed(
            f"exp(log_likelihood) of points sums to {mass:.3f} over [-{_REACH:g}, {_REACH:g}]^2, a density to 1.",
            "Look for a missing Jacobian or constant, or say likelihood_kind = 'bound'.",
        )
    return f"exact: the density sums to {mass:.3f}"


def _density_of(generator: Any, points: Tensor) -> Callable[[Any], Tensor]:
    return lambda given: generator.log_likelihood(points, given, _noise())


def check_stream(subject: Subject, generator: Any) -> str | None:
    """Text piece by piece, the prompt first, the same for equal seeds."""
    prompt = "The old lamp"
    pieces = [_read(generator, prompt), _read(generator, prompt)]
    if not all(isinstance(piece, str) for piece in pieces[0]):
        raise CheckFailed("stream hands out something else than strings.")
    if not "".join(pieces[0]).startswith(prompt):
        raise CheckFailed(f"what is streamed begins with {''.join(pieces[0])[:20]!r}, not with the prompt.")
    if pieces[0] != pieces[1]:
        raise CheckFailed("equal seeds stream different texts.", "Draw from the generator that `stream` is given.")
    return f"{len(pieces[0])} pieces"


def _read(generator: Any, prompt: str) -> list[str]:
    pieces = []
    for piece in generator.stream(prompt, generator=_noise()):
        pieces.append(piece)
        if len(pieces) >= 64:
            break
    return pieces


def check_trajectory(subject: Subject, generator: Any) -> str | None:
    """The film of `sample`, which ends in the sample."""
    frames = generator.trajectory(2, None, _noise())
    shape = _data(subject).info.sample_shape
    if not isinstance(frames, Tensor) or tuple(frames.shape[1:]) != (2, *shape) or len(frames) < 2:
        found = tuple(frames.shape) if isinstance(frames, Tensor) else type(frames).__name__
        raise CheckFailed(f"trajectory(2) has shape {found}, expected (frames, 2, {', '.join(map(str, shape))}).")
    last = generator.sample(2, None, _noise())
    if not torch.allclose(frames[-1].to(last), last, atol=1e-4):
        raise CheckFailed("the last frame of trajectory is not what sample gives for the same generator state.")
    return f"{len(frames)} frames"


def check_edit(subject: Subject, generator: Any) -> str | None:
    """Every mode changes a picture and gives one of the right size."""
    shape = _data(subject).info.sample_shape
    if len(shape) != 3:
        raise NotApplicable("only pictures are edited, and it was built for others here.")
    modes = getattr(generator, "edit_modes", None)
    if not isinstance(modes, Mapping) or not modes:
        raise CheckFailed("edit_modes names no mode.", "Map each mode to a line of help.")
    picture, condition = _given(subject, generator, 1)
    mask = torch.zeros(1, 1, SIDE, SIDE, device=generator.device)
    mask[..., : SIDE // 2, :] = 1
    for mode in modes:
        edit = partial(generator.edit, picture, mode, mask=mask)
        edited = _asked(partial(_edited, edit), condition)
        _check_samples(f"edit(picture, '{mode}')", edited, shape, 1)
    return ", ".join(modes)


def _edited(edit: Callable[..., Any], condition: Any) -> Any:
    return edit(condition=condition, generator=_noise())


def check_attention(subject: Subject, generator: Any) -> str | None:
    """Shares (layers, heads, t, t) that sum to one along each row."""
    maps = generator.attention_maps("The old lamp")
    if not isinstance(maps, Tensor) or maps.ndim != 4 or maps.shape[2] != maps.shape[3]:
        found = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise CheckFailed(f"attention_maps has shape {found}, expected (layers, heads, t, t).")
    error = float((maps.sum(-1) - 1).abs().max())
    if float(maps.min()) < 0 or not error < 1e-3:
        raise CheckFailed("the rows of attention_maps are no shares that sum to 1.", "Return them after the softmax.")
    labels = generator.token_labels("The old lamp")
    if len(labels) != maps.shape[2]:
        raise CheckFailed(f"token_labels names {len(labels)} tokens, attention_maps shows {maps.shape[2]}.")
    return "x".join(map(str, maps.shape))


CHECKS: Mapping[str, Callable[[Subject, Any], str | None]] = {
    "sample": check_sample,
    "encode": check_encode,
    "decode": check_decode,
    "reconstruct": check_reconstruct,
    "interpolate": check_interpolate,
    "invert": check_invert,
    "caption": check_caption,
    "likelihood": check_likelihood,
    "stream": check_stream,
    "trajectory": check_trajectory,
    "edit": check_edit,
    "attention": check_attention,
}
"""Capability of generators -> its check."""
