"""The networks: exact sizes, causality, and that reading token by token is reading at once."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from studio.plugin import DataInfo
from studio_gpt.config import GPTConfig
from studio_gpt.gpt import GPT, GPTShape
from studio_gpt.language_model import LanguageModel, linear_cross_entropy
from studio_gpt.rnn import RNN
from studio_gpt.text_plugin import TextGenerator
from studio_gpt.wavenet import WaveNet

V = 23


def small(name: str) -> LanguageModel:
    torch.manual_seed(0)
    model: LanguageModel
    if name == "gpt":
        model = GPT(V, GPTShape(width=24, layers=2, heads=3, context=16, dropout=0.1))
    elif name == "rnn":
        model = RNN(V, width=24, layers=2)
    else:
        model = WaveNet(V, width=16, layers=3)
    return model.double().eval()


MODELS = pytest.mark.parametrize("name", ["gpt", "rnn", "wavenet"])


def tokens(n: int, t: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(V, (n, t), generator=torch.Generator().manual_seed(seed))


def test_the_gpt_has_the_parameters_of_the_specification() -> None:
    plugin = TextGenerator(GPTConfig.preset("default"), DataInfo(()))
    network = plugin.networks()["gpt"]
    assert sum(p.numel() for p in network.parameters()) == 56_957_184
    assert isinstance(network, GPT)
    assert [n for n, _ in network.named_parameters() if n.endswith("bias") and "norm" not in n] == []


def test_the_formula_for_the_number_of_parameters() -> None:
    width, layers, context = 24, 2, 16
    for tied in (False, True):
        model = GPT(V, GPTShape(width, layers, 3, context, 0.0, tied))
        expected = (1 if tied else 2) * V * width + context * width
        expected += layers * (12 * width**2 + 4 * width) + 2 * width
        assert sum(p.numel() for p in model.parameters()) == expected


def test_the_rnn_is_embedding_elman_and_head_with_bias() -> None:
    plugin = TextGenerator(GPTConfig.from_dict({**GPTConfig.PRESETS["rnn"], "vocab_size": 1000}), DataInfo(()))
    expected = 1000 * 384 + 2 * (384 * 384 + 384) + 384 * 1000 + 1000
    assert sum(p.numel() for p in plugin.networks()["rnn"].parameters()) == expected


def test_the_rnn_follows_its_formula() -> None:
    model = small("rnn")
    assert isinstance(model, RNN)
    single = RNN(V, width=8).double()
    x = tokens(1, 5)
    h = torch.zeros(8, dtype=torch.float64)
    cell = single.rnn
    for t in range(5):
        e = single.embedding.weight[x[0, t]]
        h = torch.tanh(cell.weight_ih_l0 @ e + cell.bias_ih_l0 + cell.weight_hh_l0 @ h + cell.bias_hh_l0)
    torch.testing.assert_close(single(x)[0, -1], single.head.weight @ h + single.head.bias)


def test_the_gpt_follows_its_formula() -> None:
    """Written out head by head, without any of the model's own functions."""
    model = small("gpt")
    assert isinstance(model, GPT)
    weights = dict(model.named_parameters())
    x = tokens(1, 7)[0]

    def norm(h: torch.Tensor, name: str) -> torch.Tensor:
        centred = h - h.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred / (variance + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    h = weights["embedding.weight"][x] + weights["positions"][:7]
    for layer in range(2):
        at = f"blocks.{layer}"
        a = norm(h, f"{at}.attention_norm")
        w_q, w_k, w_v = weights[f"{at}.attention.qkv.weight"].chunk(3)
        heads = []
        for i in range(3):
            rows = slice(8 * i, 8 * i + 8)
            q, k, v = a @ w_q[rows].T, a @ w_k[rows].T, a @ w_v[rows].T
            scores = torch.full((7, 7), -math.inf, dtype=torch.float64)
            for row in range(7):
                for column in range(row + 1):
                    scores[row, column] = (q[row] @ k[column]) / math.sqrt(8)
            heads.append(scores.softmax(-1) @ v)
        h = h + torch.cat(heads, dim=-1) @ weights[f"{at}.attention.out.weight"].T
        inner = norm(h, f"{at}.feed_forward_norm") @ weights[f"{at}.feed_forward.0.weight"].T
        gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        h = h + gelu @ weights[f"{at}.feed_forward.2.weight"].T
    torch.testing.assert_close(model(x[None])[0], norm(h, "norm") @ weights["head.weight"].T)


def test_wavenet_sees_twice_as_far_with_each_layer() -> None:
    model = small("wavenet")
    assert isinstance(model, WaveNet)
    assert model.receptive_field == 8
    x = tokens(1, 20)
    last = model(x)[0, -1]
    for position in range(20):
        changed = x.clone()
        changed[0, position] = (x[0, position] + 1) % V
        assert torch.equal(model(changed)[0, -1], last) == (position < 12), position


@MODELS
def test_no_position_sees_the_future(name: str) -> None:
    model = small(name)
    embedded: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    model.embedding.register_forward_hook(keep)  # type: ignore[union-attr, arg-type]
    logits = model(tokens(1, 8))
    for position in range(8):
        (gradient,) = torch.autograd.grad(logits[0, position].square().sum(), embedded[-1], retain_graph=True)
        reached = gradient[0].abs().sum(dim=-1)
        assert torch.all(reached[position + 1 :] == 0)
        assert torch.all(reached[: position + 1] > 0)


def test_training_attention_is_the_fused_one_and_sees_no_future() -> None:
    """Dropout takes another path on a CPU; at a vanishing rate both must agree."""
    model = small("gpt")
    x = tokens(2, 16)
    expected = model(x)
    for block in model.blocks:  # type: ignore[union-attr]
        block.attention.dropout = 1e-300  # type: ignore[union-attr]
        block.attention.train()  # type: ignore[operator, union-attr]
    torch.testing.assert_close(model(x), expected)


@MODELS
@pytest.mark.parametrize("cuts", [(1,) * 14, (5, 1, 1, 7), (13, 1)])
def test_reading_in_parts_is_reading_at_once(name: str, cuts: tuple[int, ...]) -> None:
    model = small(name)
    x = tokens(3, 14)
    expected = model.hidden(x)
    state = model.new_state(3)
    got = torch.cat([model.read(part, state) for part in x.split(list(cuts), dim=1)], dim=1)
    torch.testing.assert_close(got, expected)
    assert state.length == 14


@MODELS
def test_selecting_texts_of_a_state(name: str) -> None:
    model = small(name)
    x = tokens(3, 9)
    state = model.new_state(3)
    model.read(x[:, :6], state)
    rows = torch.tensor([2, 0, 2, 1])
    state.select(rows)
    torch.testing.assert_close(model.read(x[rows, 6:], state), model.hidden(x)[rows, 6:])


def test_a_cache_grows_past_its_first_capacity() -> None:
    model = GPT(V, GPTShape(width=8, layers=1, heads=2, context=200)).double().eval()
    x = tokens(2, 200)
    state = model.new_state(2)
    got = torch.cat([model.read(part, state) for part in x.split(1, dim=1)], dim=1)
    torch.testing.assert_close(got, model.hidden(x))
    with pytest.raises(ValueError, match="context of 200 positions, got 201"):
        model.read(x[:, :1], state)


def test_a_prefix_is_seen_by_all_positions_and_has_no_outputs() -> None:
    model = small("gpt")
    assert isinstance(model, GPT)
    x, prefix = tokens(2, 5), torch.randn(2, 4, 24, dtype=torch.float64)
    full = model.hidden(x, prefix)
    assert full.shape == (2, 5, 24)
    state = model.new_state(2)
    parts = [model.read(x[:, :1], state, prefix), model.read(x[:, 1:], state)]
    torch.testing.assert_close(torch.cat(parts, dim=1), full)
    assert not torch.allclose(model.hidden(x, prefix.flip(1)), full)


@MODELS
def test_the_first_loss_is_about_ln_v(name: str) -> None:
    torch.manual_seed(0)
    vocab = 2000
    models: dict[str, LanguageModel] = {
        "gpt": GPT(vocab, GPTShape(width=96, layers=3, heads=3, context=32)),
        "rnn": RNN(vocab, width=96),
        "wavenet": WaveNet(vocab, width=96, layers=4),
    }
    x = torch.randint(vocab, (8, 33))
    loss = models[name].eval().loss(x[:, :-1], x[:, 1:], padding=-1)
    assert float(loss.detach()) == pytest.approx(math.log(vocab), abs=0.1)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("at_once", [1, 3 * 11, 10**9])
def test_the_loss_without_logits_is_cross_entropy(bias: bool, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio_gpt.language_model._LOGITS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    hidden, weight, b = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((13, 5), (11, 5), (11,))
    )
    targets = torch.randint(11, (13,), generator=generator)
    targets[4:7] = 9
    leaves = [hidden, weight] + ([b] if bias else [])
    reference = F.cross_entropy(F.linear(hidden, weight, b if bias else None), targets, ignore_index=9)
    loss = linear_cross_entropy(hidden, weight, b if bias else None, targets, ignore=9)
    torch.testing.assert_close(loss, reference)
    for got, expected in zip(
        torch.autograd.grad(3 * loss, leaves), torch.autograd.grad(3 * reference, leaves), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_a_batch_of_padding_only_has_no_loss() -> None:
    hidden = torch.randn(4, 5, requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.randn(7, 5), None, torch.full((4,), 6), ignore=6)
    loss.backward()
    assert float(loss.detach()) == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_attention_maps_are_lower_triangular_and_sum_to_one() -> None:
    model = small("gpt")
    assert isinstance(model, GPT)
    maps = model.attention_maps(tokens(2, 9))
    assert maps.shape == (2, 2, 3, 9, 9)
    assert torch.equal(maps, maps.tril())
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(2, 2, 3, 9, dtype=torch.float64))


def test_16_bit_training_is_close_to_32_bit() -> None:
    torch.manual_seed(0)
    model = GPT(V, GPTShape(width=32, layers=2, heads=4, context=16, dropout=0.0))
    x = tokens(4, 17)
    losses, gradients = [], []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = model.loss(x[:, :-1], x[:, 1:], padding=-1)
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert float(F.cosine_similarity(gradients[0], gradients[1], dim=0)) > 0.999
