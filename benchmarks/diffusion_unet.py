"""The diffusion plugin's U-Net beside diffusers' UNet2DModel of the same size: a training step, and DDIM sampling.

    python benchmarks/diffusion_unet.py

Both networks have the same layers and number of parameters. Writes results/diffusion_unet.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from harness import RESULTS, Report, measure
from torch import Tensor, nn

from studio_diffusion.samplers import denoise, visited_levels
from studio_diffusion.schedule import NoiseSchedule
from studio_diffusion.unet import UNet

PROTOCOL = (
    "Pictures 3x32x32; 32, 64, 64 channels, 2 residual blocks a resolution, attention at 16 and 8; float32. "
    "Training step: noise, prediction, mean square error, backward, AdamW, batch 32; theirs with DDPMScheduler. "
    "Sampling: DDIM, 20 evaluations, batch 16; theirs with DDIMScheduler. "
    "Wall clock, ours and theirs in turn, in one process."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="ours and theirs in turn, so many times")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    arguments = parser.parse_args()
    import diffusers

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
        protocol=f"{PROTOCOL} diffusers {diffusers.__version__}.",
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
        pairs = [
            (measure(first, repetitions=1, warmup=1).best, measure(second, repetitions=1, warmup=1).best)
            for _ in range(arguments.rounds)
        ]
        ratios = sorted(b / a for a, b in pairs)
        report.add(
            work=work,
            ours_ms=1e3 * sorted(a for a, _ in pairs)[len(pairs) // 2],
            theirs_ms=1e3 * sorted(b for _, b in pairs)[len(pairs) // 2],
            times_as_fast=ratios[len(ratios) // 2],
            ratios=ratios,
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
