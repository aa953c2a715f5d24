"""Rays a second of training the classic NeRF: ours beside the plain loop of coarse and fine network in eager torch.

    python benchmarks/nerf_throughput.py --train-seconds 60 --seconds 20

All variants train the paper's network on the same photos, in this process, taking turns. The plain loop first tries
into how many rays at once to cut its step, and takes the fastest. Writes results/nerf_throughput.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from harness import DATA, RESULTS, Report, gib, peak_memory
from torch import Tensor, nn

from studio.devices import apply_threads
from studio.plugin import RayRequest
from studio.training.start import Prepared, TrainOptions, prepare
from studio_nerf.classic.config import NerfConfig
from studio_nerf.classic.field import NerfField

PROTOCOL = (
    "Lego (NeRF-synthetic), 100 training photos reduced by {downscale:g} with an area filter, white background. Every "
    "variant takes whole training steps (drawing rays, forward, backward, Adam) of the network of Mildenhall et al. "
    "2020 (8x256, L = 10 and 4). 'plain' is the classic loop as it is usually written, in eager torch: 64 stratified "
    "samples for the coarse and 192 for the fine network, {plain_rays} rays a step, float32, cut into as many rays "
    "at once as it is fastest with (the row 'plain' names them; gradients add up, so the step is the same). "
    "'hierarchical' is this plugin with the same samples; 'grid' its default, one network that an occupancy grid "
    "spares empty space, after "
    "{train_seconds:g} s of training, as rays grow cheaper while the grid learns. Variants take turns, {rounds} rounds "
    "of {seconds:g} s each after a warm-up; figures are medians over rounds. Seconds are {clock}. 'samples' are "
    "evaluations a ray with gradients. Seed 0."
)


_TRIED_RAYS = 128
"""Least rays of a step that a size of chunk is tried with."""


class PlainNetwork(nn.Module):
    """The MLP as a straight reading of the paper's figure 7."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [63, 256, 256, 256, 256, 256 + 63, 256, 256]
        self.layers = nn.ModuleList(nn.Linear(n, 256) for n in sizes)
        self.sigma, self.feature = nn.Linear(256, 1), nn.Linear(256, 256)
        self.view, self.color = nn.Linear(256 + 27, 128), nn.Linear(128, 3)

    def forward(self, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        gamma = _encode(x, 10)
        h = gamma
        for i, layer in enumerate(self.layers):
            h = F.relu(layer(torch.cat([gamma, h], -1) if i == 5 else h))
        seen = F.relu(self.view(torch.cat([self.feature(h), _encode(d, 4)], -1)))
        return F.relu(self.sigma(h))[..., 0], torch.sigmoid(self.color(seen))


class PlainLoop:
    """Coarse and fine network, all samples evaluated, autograd through everything at once."""

    def __init__(self, near: float, far: float) -> None:
        self.near, self.far = near, far
        self.coarse, self.fine = PlainNetwork(), PlainNetwork()
        parameters = [*self.coarse.parameters(), *self.fine.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=5e-4)

    def step(self, origins: Tensor, directions: Tensor, target: Tensor, chunk: int) -> float:
        """One step of Adam on all rays; `chunk` of them are evaluated at once, so what they need fits caches."""
        self.optimizer.zero_grad()
        total = 0.0
        for o, d, c in zip(origins.split(chunk), directions.split(chunk), target.split(chunk), strict=True):
            loss = self._loss(o, d, c) * (len(o) / len(origins))
            loss.backward()
            total += float(loss.detach())
        self.optimizer.step()
        return total

    def _loss(self, origins: Tensor, directions: Tensor, target: Tensor) -> Tensor:
        n = len(origins)
        bins = torch.linspace(0, 1, 65)[None]
        t = self.near + (self.far - self.near) * (bins[:, :-1] + torch.rand(n, 64) / 64)
        first, weights = self._render(self.coarse, origins, directions, t)
        middle = 0.5 * (t[:, 1:] + t[:, :-1])
        t = torch.cat([t, _sample(middle, weights[:, 1:-1].detach(), 128)], -1).sort(-1).values
        second, _ = self._render(self.fine, origins, directions, t)
        return F.mse_loss(first, target) + F.mse_loss(second, target)

    def _render(self, network: PlainNetwork, o: Tensor, d: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x = o[:, None] + d[:, None] * t[..., None]
        sigma, color = network(x / 1.5, d[:, None].expand_as(x))
        delta = torch.cat([t[:, 1:] - t[:, :-1], torch.full_like(t[:, :1], 1e10)], -1)
        alpha = 1 - torch.exp(-sigma * delta)
        light = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-10], -1), -1)[:, :-1]
        weights = alpha * light
        return (weights[..., None] * color).sum(-2) + 1 - weights.sum(-1, keepdim=True), weights


def _encode(x: Tensor, levels: int) -> Tensor:
    parts = [x]
    for i in range(levels):
        parts += [torch.sin(torch.pi * 2**i * x), torch.cos(torch.pi * 2**i * x)]
    return torch.cat(parts, -1)


def _sample(edges: Tensor, weights: Tensor, count: int) -> Tensor:
    pdf = (weights + 1e-5) / (weights + 1e-5).sum(-1, keepdim=True)
    cdf = torch.cat([torch.zeros_like(pdf[:, :1]), pdf.cumsum(-1)], -1)
    u = torch.rand(len(edges), count)
    index = torch.searchsorted(cdf, u, right=True).clamp(1, cdf.shape[-1] - 1)
    low, high = cdf.gather(-1, index - 1), cdf.gather(-1, index)
    share = (u - low) / (high - low).clamp(min=1e-8)
    return edges.gather(-1, index - 1) + share * (edges.gather(-1, index) - edges.gather(-1, index - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-seconds", type=float, default=120, help="training of the grid before it is measured")
    parser.add_argument("--seconds", type=float, default=15, help="of each variant in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain-rays", type=int, default=1024, help="rays a step of the plain loop")
    parser.add_argument(
        "--chunks", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512, 1024], help="rays at once to try"
    )
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="count seconds of the processor, not of the clock; with OMP_NUM_THREADS=1",
    )
    parser.add_argument("--downscale", type=float, default=8.0)
    parser.add_argument("--data", type=Path, default=DATA / "lego")
    parser.add_argument("--test-file", default="transforms_test25.json")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    apply_threads()
    clock = time.process_time if arguments.processor_time else time.perf_counter
    report = Report(
        "nerf_throughput",
        title="Classic NeRF on the CPU: rays a second in training",
        protocol=PROTOCOL.format(
            **vars(arguments),
            clock=f"those of the processor, {torch.get_num_threads()} thread(s)"
            if arguments.processor_time
            else "the clock's",
        ),
        settings=vars(arguments),
        folder=arguments.results,
    )
    with tempfile.TemporaryDirectory() as scratch:
        variants, chunks = _variants(arguments, Path(scratch), clock)
        _measure(variants, arguments, report, clock, chunks)
    report.print()


def _variants(
    arguments: argparse.Namespace, scratch: Path, clock: Callable[[], float]
) -> tuple[dict[str, Callable[[], tuple[int, float]]], dict[int, float]]:
    """Name -> a training step, which returns its rays and the samples a ray with gradients; and the plain loop's rays a
    second by its rays at once."""
    options = TrainOptions(
        output=scratch,
        device="cpu",
        downscale=arguments.downscale,
        background="white",
        reader={"test_file": arguments.test_file},
        tensorboard=False,
    )

    def prepared(**chosen: Any) -> Prepared:
        config = NerfConfig.from_dict({**NerfConfig.preset(chosen.pop("preset", None)).to_dict(), **chosen})
        return prepare("nerf", arguments.data, config, options)

    def ours(job: Prepared) -> Callable[[], tuple[int, float]]:
        field, trainer = job.plugin, job.trainer
        assert isinstance(field, NerfField)
        dense = field.config.coarse_samples + field.config.coarse_samples + field.config.fine_samples

        def step() -> tuple[int, float]:
            batch = trainer.source.next(field.batch_request(trainer.step))
            figures = field.training_step(batch, trainer.step)
            trainer.step += 1
            return int(figures["rays"]), float(figures.get("samples_a_ray", dense))

        return step

    source = prepared(preset="paper").trainer.source
    loop = PlainLoop(2.0, 6.0)

    def plain(chunk: int, count: int = arguments.plain_rays) -> tuple[int, float]:
        batch: Any = source.next(RayRequest(count))
        loop.step(batch.origins, batch.directions, torch.lerp(torch.ones(3), batch.rgb, batch.alpha), chunk)
        return count, 256.0

    chunks = {chunk: _speed_of_chunk(plain, chunk, clock) for chunk in arguments.chunks}
    best = max(chunks, key=lambda chunk: chunks[chunk])

    rays = arguments.plain_rays
    variants = {
        "plain": lambda: plain(best),
        "hierarchical float32": ours(prepared(preset="paper", rays=rays)),
        "hierarchical bf16": ours(prepared(preset="paper", rays=rays, precision="bf16")),
        "grid float32": ours(prepared(precision="fp32")),
        "grid bf16 (default)": ours(prepared()),
    }
    for name, step in variants.items():
        if name.startswith("grid"):
            end = clock() + arguments.train_seconds
            while clock() < end:
                step()
    return variants, chunks


def _speed_of_chunk(plain: Callable[[int, int], tuple[int, float]], chunk: int, clock: Callable[[], float]) -> float:
    """Rays a second of steps of a few chunks; the better of two, after one that does not count."""
    rays = max(chunk, _TRIED_RAYS)
    plain(chunk, rays)
    found = []
    for _ in range(2):
        started = clock()
        plain(chunk, rays)
        found.append(rays / (clock() - started))
    return max(found)


def _measure(
    variants: dict[str, Callable[[], tuple[int, float]]],
    arguments: argparse.Namespace,
    report: Report,
    clock: Callable[[], float],
    chunks: dict[int, float],
) -> None:
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for step in variants.values():
        step()
    for _ in range(arguments.rounds):
        for name, step in variants.items():
            rays, started = 0, clock()
            while clock() - started < arguments.seconds:
                count, each = step()
                rays += count
                samples[name].append(each)
            speeds[name].append(rays / (clock() - started))
    base = statistics.median(speeds["plain"])
    for name, found in speeds.items():
        speed = statistics.median(found)
        report.add(
            variant=name,
            rays_a_second=round(speed),
            times_plain=speed / base,
            samples=statistics.mean(samples[name]),
            chunk=max(chunks, key=lambda chunk: chunks[chunk]) if name == "plain" else None,
            tried={str(chunk): round(found, 1) for chunk, found in chunks.items()} if name == "plain" else None,
            rounds=found,
            peak_memory=gib(peak_memory()),
        )


if __name__ == "__main__":
    main()
