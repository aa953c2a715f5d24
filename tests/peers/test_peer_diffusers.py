"""Noise schedules, samplers and the parts of the U-Net against diffusers."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import Attention as TheirAttention
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.training_utils import compute_snr
from torch import Tensor

from studio_diffusion.samplers import ddim_step, denoise, visited_levels
from studio_diffusion.schedule import NoiseSchedule, betas
from studio_diffusion.unet import Attention, ResidualBlock, UNet, level_embedding

SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
KINDS: dict[str, str] = {"noise": "epsilon", "x0": "sample", "v": "v_prediction"}


def network(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(2 * x) + 0.2 * x * (t.float() / 1000).reshape(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize("name", SCHEDULES)
def test_betas_of_a_thousand_levels(name: str) -> None:
    theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule=SCHEDULES[name])
    torch.testing.assert_close(betas(name, 1000).float(), theirs.betas, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
# Numbers that divide the levels: with others diffusers steps down by the same whole number from each level, which then
# is not the next one that it visits.
@pytest.mark.parametrize("steps", [1, 4, 10, 50, 250])
@pytest.mark.parametrize("clip", [False, True])
def test_deterministic_ddim(name: str, kind: Any, steps: int, clip: bool) -> None:
    """From noise to the last picture."""
    theirs = diffusers.DDIMScheduler(
        num_train_timesteps=1000, beta_schedule=SCHEDULES[name], prediction_type=KINDS[kind], clip_sample=clip,
        timestep_spacing="trailing", set_alpha_to_one=True,
    )  # fmt: skip
    theirs.set_timesteps(steps)
    levels = visited_levels(1000, steps)
    assert theirs.timesteps.tolist() == levels
    x = start = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    schedule = NoiseSchedule(name, 1000)
    for level in levels:
        prediction = network(x, torch.full((2,), level))
        x = theirs.step(prediction, level, x, eta=0.0, use_clipped_model_output=clip).prev_sample
    *_, last = denoise(
        network, start, schedule, levels, prediction=kind, correct=(lambda x0: x0.clamp(-1, 1)) if clip else None
    )
    # Without a clamp the cosine schedule's last level multiplies rounding by 1 / sqrt(alpha_bar).
    scale = max(1.0, float(x.abs().max()))
    torch.testing.assert_close(last.x, x, atol=(2e-4 if clip else 5e-3) * scale, rtol=0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("level", "lower"), [(999, 949), (500, 480), (100, 99), (20, 0)])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_one_step_of_ddim(name: str, level: int, lower: int, eta: float) -> None:
    g = torch.Generator().manual_seed(level)
    x, prediction, fresh = (torch.randn(3, 8, generator=g) for _ in range(3))
    schedule = NoiseSchedule(name, 1000)
    theirs = diffusers.DDIMScheduler(num_train_timesteps=1000, beta_schedule=SCHEDULES[name], clip_sample=False)
    # Their step goes down by this many levels.
    theirs.num_inference_steps = 1000 // (level - lower)
    if 1000 // theirs.num_inference_steps != level - lower:
        pytest.skip("their step divides the number of levels")
    expected = theirs.step(prediction, level, x, eta=eta, variance_noise=fresh if eta else None).prev_sample
    t, p = torch.full((3,), level), torch.full((3,), lower)
    x0, noise = schedule.split(x, prediction, t, "noise")
    got = ddim_step(schedule, x0, noise, t, p, eta, fresh if eta else None)
    torch.testing.assert_close(got, expected, atol=1e-4 * max(1.0, float(expected.abs().max())), rtol=0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_weights(name: str, gamma: float) -> None:
    """min(SNR, gamma) / SNR for the error of noise, as their training scripts weigh it."""
    theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule=SCHEDULES[name])
    t = torch.tensor([0, 3, 50, 400, 800, 950])
    snr = compute_snr(theirs, t)
    expected = snr.clamp(max=gamma) / snr
    got = NoiseSchedule(name, 1000).loss_weight(t, "noise", gamma)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        NoiseSchedule(name, 1000).loss_weight(t, "v", gamma), snr.clamp(max=gamma) / (snr + 1), atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("dim", [2, 32, 128])
def test_embedding_of_levels(dim: int) -> None:
    t = torch.tensor([0.0, 1.0, 17.0, 999.0])
    theirs = get_timestep_embedding(t, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(level_embedding(t, dim), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("channels", "out"), [(32, 32), (32, 64), (64, 32)])
def test_residual_block(channels: int, out: int) -> None:
    torch.manual_seed(0)
    ours = ResidualBlock(channels, out, 24, dropout=0.0).eval()
    theirs = ResnetBlock2D(
        in_channels=channels, out_channels=out, temb_channels=24, groups=ours.norm1.num_groups,
        groups_out=ours.norm2.num_groups, eps=ours.norm1.eps,
    ).eval()  # fmt: skip
    names = {"norm1": "norm1", "conv1": "conv1", "embed": "time_emb_proj", "norm2": "norm2", "conv2": "conv2",
             "shortcut": "conv_shortcut"}  # fmt: skip
    state = {}
    for name, value in ours.state_dict().items():
        part, _, rest = name.partition(".")
        value.copy_(torch.randn_like(value) * 0.2)
        state[f"{names[part]}.{rest}"] = value
    theirs.load_state_dict(state)
    x, embedding = torch.randn(2, channels, 6, 5), torch.randn(2, 24)
    with torch.no_grad():
        expected = theirs(x, embedding)
        torch.testing.assert_close(ours(x, torch.nn.functional.silu(embedding)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("channels", "head_dim"), [(32, 32), (32, 8), (64, 16)])
@pytest.mark.parametrize("context", [None, 20])
def test_attention(channels: int, head_dim: int, context: int | None) -> None:
    torch.manual_seed(1)
    ours = Attention(channels, head_dim, context).eval()
    theirs = TheirAttention(
        channels, cross_attention_dim=context, heads=channels // head_dim, dim_head=head_dim, bias=True,
        norm_num_groups=ours.norm.num_groups, eps=ours.norm.eps, residual_connection=True,
    ).eval()  # fmt: skip
    names = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "output": "to_out.0"}
    state = {}
    for name, value in ours.state_dict().items():
        part, _, rest = name.partition(".")
        value.copy_(torch.randn_like(value) * 0.2)
        state[f"{names[part]}.{rest}"] = value
    theirs.load_state_dict(state)
    x = torch.randn(2, channels, 4, 3)
    words = None if context is None else torch.randn(2, 7, context)
    mask = None if context is None else torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    with torch.no_grad():
        bias = None if mask is None else torch.where(mask, 0.0, -torch.inf)[:, None, :]
        expected = theirs(x, encoder_hidden_states=words, attention_mask=bias)
        torch.testing.assert_close(ours(x, words, mask), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("multipliers", [(1, 2), (1, 2, 2), (1, 1, 2)])
@pytest.mark.parametrize("blocks", [1, 2])
def test_as_many_parameters_as_their_unet(multipliers: tuple[int, ...], blocks: int) -> None:
    depth = len(multipliers)
    theirs = diffusers.UNet2DModel(
        sample_size=32, block_out_channels=tuple(32 * m for m in multipliers), layers_per_block=blocks,
        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * (depth - 1)),
        up_block_types=(*["AttnUpBlock2D"] * (depth - 1), "UpBlock2D"), attention_head_dim=32,
    )  # fmt: skip
    ours = UNet((3, 32, 32), channels=32, multipliers=multipliers, blocks=blocks, attention_size=16)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
