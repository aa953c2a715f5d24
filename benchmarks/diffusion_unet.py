"""The diffusion plugin's U-Net beside diffusers' UNet2DModel of the same size: a training step, and DDIM sampling.

    python benchmarks/diffusion_unet.py

Both networks have the same layers and number of parameters. Writes results/diffusion_unet.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from harness import RESULTS, Report, clock_and_processor
from torch import Tensor, nn

from studio.devices import apply_threads
from studio_diffusion.samplers import denoise, visited_levels
from studio_diffusion.schedule import NoiseSchedule
from studio_diffusion.unet import UNet

PROTOCOL = (
    "Pictures 3x32x32; 32, 64, 64 channels, 2 residual blocks a resolution, attention at 16 and 8; float32. "
    "Training step: noise, prediction, mean square error, backward, AdamW, batch 32; theirs with DDPMScheduler. "
    "Sampling: DDIM, 20 evaluations, batch 16; theirs with DDIMScheduler. "
    "Ours and theirs in turn, in one process, {threads} thread(s): medians of the rounds by the clock, and of the "
    "ratio of each round by the clock and by processor time, which other programs on the machine disturb less."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="ours and theirs in turn, so many times")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    arguments = parser.parse_args()
    import diffusers

    apply_threads()
    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        # 32 groups of 32 channels would cancel the noise level; ours has groups of four channels at least.
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
    )
    ours = UNet((3, 32, 32), channels=32, multipliers=(1, 2, 2), blocks=2, attention_size=16)
    report = Report(
        "diffusion_unet",
        title="U-Net of the diffusion plugin beside diffusers'",
        protocol=f"{PROTOCOL.format(threads=torch.get_num_threads())} diffusers {diffusers.__version__}.",
        settings=vars(arguments),
        folder=arguments.results,
    )
    ddpm = diffusers.DDPMScheduler(num_train_timesteps=1000)
    ddim = diffusers.DDIMScheduler(num_train_timesteps=1000)
    ddim.set_timesteps(20)
    schedule = NoiseSchedule("linear", 1000)
    start = torch.randn(16, 3, 32, 32)

    def our_step() -> Callable[[], object]:
        return _training(ours, lambda x, t: ours(x, t), schedule.add_noise)

    def their_step() -> Callable[[], object]:
        return _training(theirs, lambda x, t: theirs(x, t).sample, ddpm.add_noise)

    @torch.no_grad()
    def our_sampling() -> None:
        ours.eval()
        *_, _ = denoise(
            ours, start, schedule, visited_levels(1000, 20), prediction="noise", correct=lambda x0: x0.clamp(-1, 1)
        )

    @torch.no_grad()
    def their_sampling() -> None:
        theirs.eval()
        x = start
        for t in ddim.timesteps:
            x = ddim.step(theirs(x, t).sample, t, x).prev_sample

    for work, first, second in (
        ("training step", our_step(), their_step()),
        ("DDIM sampling", our_sampling, their_sampling),
    ):
        first(), second()
        pairs = [(clock_and_processor(first), clock_and_processor(second)) for _ in range(arguments.rounds)]
        by_clock = sorted(theirs_clock / our_clock for (our_clock, _), (theirs_clock, _) in pairs)
        by_processor = sorted(theirs_used / our_used for (_, our_used), (_, theirs_used) in pairs)
        report.add(
            work=work,
            ours_ms=1e3 * statistics.median(ours_clock for (ours_clock, _), _ in pairs),
            theirs_ms=1e3 * statistics.median(theirs_clock for _, (theirs_clock, _) in pairs),
            times_as_fast=statistics.median(by_clock),
            by_processor_time=statistics.median(by_processor),
            ratios={"clock": by_clock, "processor": by_processor},
            our_parameters=sum(p.numel() for p in ours.parameters()),
            their_parameters=sum(p.numel() for p in theirs.parameters()),
        )
    report.print()


def _training(
    network: nn.Module,
    predict: Callable[[Tensor, Tensor], Tensor],
    add_noise: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    x0 = torch.rand(32, 3, 32, 32) * 2 - 1

    def step() -> None:
        network.train()
        noise = torch.randn_like(x0)
        t = torch.randint(1000, (32,))
        loss = nn.functional.mse_loss(predict(add_noise(x0, noise, t), t), noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
