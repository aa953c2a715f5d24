"""The networks: shapes, sizes, what reaches what, and the conditions."""

from __future__ import annotations

import pytest
import torch

from studio.errors import StudioError
from studio.plugin import DataInfo
from studio_diffusion.conditions import CaptionEncoder, vocabulary_of, words_of
from studio_diffusion.config import DiffusionConfig
from studio_diffusion.network import Network
from studio_diffusion.unet import Attention, UNet, attend, level_embedding


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def tiny(**changes: object) -> DiffusionConfig:
    plain = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "text_dim": 32, "text_layers": 1, "timesteps": 20}
    return DiffusionConfig.from_dict({**plain, **changes})


def test_level_embedding_by_hand() -> None:
    e = level_embedding(torch.tensor([0.0, 3.0]), 4)
    angles = torch.tensor([3.0, 3.0 * 10_000**-0.5])
    torch.testing.assert_close(e[0], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(e[1], torch.cat([angles.cos(), angles.sin()]))


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 24)])
def test_prediction_has_the_shape_of_the_picture(shape: tuple[int, int, int], patch: int) -> None:
    net = UNet(shape, channels=8, multipliers=(1, 2), blocks=1, attention_size=8, patch_size=patch)
    x = torch.randn(2, *shape)
    out = net(x, torch.tensor([0, 7]))
    assert out.shape == x.shape
    assert (out == 0).all(), "the first prediction must be zero"


def test_every_pixel_reaches_every_other_through_attention() -> None:
    torch.manual_seed(0)
    net = UNet((1, 16, 16), channels=8, multipliers=(1, 2), blocks=1, attention_size=16)
    torch.nn.init.normal_(net.output.weight)
    x = torch.randn(1, 1, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x, torch.tensor([3]))[0, 0, 0, 0], x)
    assert (gradient != 0).all()


@pytest.mark.parametrize("channels", [8, 16, 32, 48, 128])
def test_level_and_class_reach_the_prediction(channels: int) -> None:
    """Normalisation in groups of one channel would cancel them."""
    torch.manual_seed(0)
    net = UNet((1, 8, 8), channels=channels, multipliers=(1,), blocks=1, attention_size=0)
    torch.nn.init.normal_(net.output.weight)
    x = torch.randn(1, 1, 8, 8)
    out = net(x, torch.tensor([3]))
    assert (net(x, torch.tensor([900])) - out).abs().mean() > 1e-3 * out.abs().mean()
    told = torch.randn(1, 4 * channels)
    assert (net(x, torch.tensor([3]), told) - out).abs().mean() > 1e-2 * out.abs().mean()


def test_sides_that_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        UNet((1, 28, 30), channels=8, multipliers=(1, 2, 2))
    with pytest.raises(StudioError, match="image-size"):
        Network(tiny(multipliers=[1, 2, 2, 2]), DataInfo((1, 28, 28)))


def test_same_size_as_the_unet_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (extra dev)")
    theirs = diffusers.UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
    )
    ours = UNet((3, 32, 32), channels=32, multipliers=(1, 2, 2), blocks=2, attention_size=16)
    assert count(ours) == count(theirs)


def test_attention_by_hand() -> None:
    torch.manual_seed(0)
    layer = Attention(8, 4)
    x = torch.randn(2, 8, 3, 3)
    tokens = layer.norm(x).flatten(2).transpose(1, 2)
    q, k, v = (f(tokens).reshape(2, 9, 2, 4).transpose(1, 2) for f in (layer.query, layer.key, layer.value))
    read = torch.softmax(q @ k.transpose(2, 3) / 4**0.5, dim=-1) @ v
    expected = x + layer.output(read.transpose(1, 2).reshape(2, 9, 8)).transpose(1, 2).reshape(2, 8, 3, 3)
    torch.testing.assert_close(layer(x), expected)


def test_captions_are_read_at_finer_resolutions_than_attention_works_at() -> None:
    def stages(**sizes: int) -> tuple[int, int, int]:
        net = UNet((3, 16, 16), channels=8, multipliers=(1, 2), blocks=1, text_dim=8, **sizes)
        every = [*net.down, net.middle[0], *net.up]
        attending = sum(stage.attention is not None for stage in every)
        return attending, sum(stage.reading is not None for stage in every), len(every)

    assert stages(attention_size=8) == (4, 4, 7)
    assert stages(attention_size=8, reading_size=16) == (4, 7, 7)
    assert stages(attention_size=16, reading_size=8) == (7, 4, 7)


def test_padding_of_captions_changes_no_prediction() -> None:
    torch.manual_seed(0)
    net = Network(tiny(attention_size=8, reading_size=16), DataInfo((1, 16, 16), has_captions=True))
    net.captions.set_vocabulary(["a", "red", "cube"])
    torch.nn.init.normal_(net.denoiser.output.weight)
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([3, 15])
    short, long = (net.condition(texts, 2)[:1] for texts in (["red cube", "a"], ["red cube", "a " * 40]))
    assert short.shape[1] == 2
    assert long.shape[1] == 40
    torch.testing.assert_close(net(x[:1], t[:1], short), net(x[:1], t[:1], long))


def test_a_word_is_read_with_the_three_before_it() -> None:
    """Before any training: transformer blocks begin as the identity, so only those reach it."""
    torch.manual_seed(0)
    encoder = CaptionEncoder(16, dim=32, layers=2).eval()
    encoder.set_vocabulary(["a", "small", "red", "metal", "cube", "blue"])
    _, words, _ = encoder(encoder.tokens(["a small red metal cube a", "a small blue metal cube a"]))
    same = [torch.equal(words[0, i], words[1, i]) for i in range(6)]
    assert same == [True, True, False, False, False, False]
    _, words, _ = encoder(encoder.tokens(["a small red metal cube a", "blue small red metal cube a"]))
    assert [torch.equal(words[0, i], words[1, i]) for i in range(6)] == [False] * 4 + [True] * 2


def test_words() -> None:
    assert words_of("A red cube, left of it!") == ["a", "red", "cube", ",", "left", "of", "it", "!"]
    assert vocabulary_of(["b a", "a c", "a b"]) == ["a", "b", "c"]


def test_captions_read_the_same_whatever_they_are_padded_with() -> None:
    torch.manual_seed(0)
    encoder = CaptionEncoder(16, dim=32, layers=1).eval()
    encoder.set_vocabulary(vocabulary_of(["a small red cube", "a sphere"]))
    alone, words_alone, _ = encoder(encoder.tokens(["a sphere"]))
    both, words_both, present = encoder(encoder.tokens(["a small red cube", "a sphere"]))
    torch.testing.assert_close(both[1], alone[0])
    torch.testing.assert_close(words_both[1, :2], words_alone[0])
    assert present.tolist() == [[True] * 4, [True, True, False, False]]
    assert encoder.unknown_words("a blue sphere") == ["blue"]


def test_captions_that_cannot_be_read() -> None:
    encoder = CaptionEncoder(16, dim=32, layers=1, length=3)
    encoder.set_vocabulary(["a", "cube"])
    encoder.tokens(["a dog"])
    with pytest.raises(StudioError, match="none of these words"):
        encoder.tokens(["xyzzy"])
    with pytest.raises(StudioError, match="4 words, the model reads 3"):
        encoder.tokens(["a a a a"])


def test_word_order_counts() -> None:
    torch.manual_seed(0)
    encoder = CaptionEncoder(16, dim=32, layers=1).eval()
    encoder.set_vocabulary(["red", "cube", "blue"])
    pooled, _, _ = encoder(encoder.tokens(["red cube blue", "blue cube red"]))
    assert not torch.allclose(pooled[0], pooled[1])


def test_dropped_conditions_are_empty_ones() -> None:
    net = Network(tiny(), DataInfo((1, 16, 16), num_classes=3))
    labels = net.condition([2, 0], 2)
    assert net.without(labels, torch.tensor([True, False])).tolist() == [3, 0]
    captioned = Network(tiny(), DataInfo((1, 16, 16), has_captions=True))
    captioned.captions.set_vocabulary(["a", "cube"])
    tokens = captioned.condition(["a cube", "cube"], 2)
    assert captioned.without(tokens, torch.tensor([True, False])).tolist() == [[0, 0], tokens[1].tolist()]
    assert captioned.nothing(1).tolist() == [[0]]


@pytest.mark.parametrize(
    ("info", "given", "message"),
    [
        (DataInfo((1, 16, 16)), [1], "without classes or captions"),
        (DataInfo((1, 16, 16), num_classes=3), [3], "out of range"),
        (DataInfo((1, 16, 16), num_classes=2, class_names=("cat", "dog")), ["cow"], "cat, dog"),
        (DataInfo((1, 16, 16), has_captions=True), [1], "captions"),
    ],
)
def test_conditions_that_do_not_fit(info: DataInfo, given: list[int], message: str) -> None:
    with pytest.raises(StudioError, match=message):
        Network(tiny(), info).condition(given, 1)


def test_samples_that_are_neither_points_nor_pictures() -> None:
    with pytest.raises(StudioError, match="plugin gpt"):
        Network(tiny(), DataInfo(()))


def test_attention_in_16_bits_is_the_fused_one_rounded() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 7, 8, generator=generator)
    k, v = (torch.randn(2, 3, 5, 8, generator=generator) for _ in range(2))
    mask = torch.tensor([[True, True, False, True, False], [True] * 5])[:, None, None, :]
    for chosen in (None, mask):
        exact = attend(q, k, v, chosen)
        rounded = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), chosen)
        assert rounded.dtype == torch.bfloat16
        # bfloat16 has 8 significant bits: 2^-8 on scores of up to about 3, and on the values.
        torch.testing.assert_close(rounded.float(), exact, atol=0.03, rtol=0.02)
    # Masked places have no say at all.
    loud = v + 100 * ~mask[:, :, 0, :, None]
    torch.testing.assert_close(
        attend(q.bfloat16(), k.bfloat16(), loud.bfloat16(), mask),
        attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask),
    )
