"""GPT, its decoding and its beam search against transformers' GPT-2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from studio_gpt.beam import beam_search
from studio_gpt.decoding import TextOptions, candidates, continue_texts
from studio_gpt.gpt import GPT, GPTShape
from studio_gpt.windows import Reader

VOCABULARY, CONTEXT = 37, 48
SHAPES = [(16, 1, 1), (32, 2, 4), (48, 3, 6)]
"""Width, layers, heads."""
END = 0


def models(width: int, layers: int, heads: int, *, tied: bool = False, seed: int = 0) -> tuple[GPT, Any]:
    """Ours, and GPT-2 with the same weights; its biases, which ours has none of, are 0."""
    torch.manual_seed(seed)
    ours = GPT(VOCABULARY, GPTShape(width, layers, heads, CONTEXT, dropout=0.0, tied=tied)).eval()
    for parameter in ours.parameters():
        # Far from the start, where every layer does next to nothing.
        parameter.data = parameter.data + 0.25 * torch.randn_like(parameter)
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=width, n_layer=layers, n_head=heads,
            activation_function="gelu", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, layer_norm_epsilon=1e-5,
            tie_word_embeddings=tied, bos_token_id=END, eos_token_id=END, pad_token_id=END,
        )
    ).eval()  # fmt: skip
    state = {name: torch.zeros_like(value) for name, value in theirs.state_dict().items()}
    named = {
        "transformer.wte.weight": ours.embedding.weight,
        "transformer.wpe.weight": ours.positions,
        "transformer.ln_f.weight": ours.norm.weight,
        "transformer.ln_f.bias": ours.norm.bias,
        "lm_head.weight": ours.head.weight,
    }
    for i, block in enumerate(ours.blocks):
        at = f"transformer.h.{i}"
        named |= {
            f"{at}.ln_1.weight": block.attention_norm.weight,  # type: ignore[dict-item]
            f"{at}.ln_1.bias": block.attention_norm.bias,  # type: ignore[dict-item]
            f"{at}.ln_2.weight": block.feed_forward_norm.weight,  # type: ignore[dict-item]
            f"{at}.ln_2.bias": block.feed_forward_norm.bias,  # type: ignore[dict-item]
            # Their linear layers keep the transposed matrix.
            f"{at}.attn.c_attn.weight": block.attention.qkv.weight.T,  # type: ignore[dict-item,union-attr]
            f"{at}.attn.c_proj.weight": block.attention.out.weight.T,  # type: ignore[dict-item,union-attr]
            f"{at}.mlp.c_fc.weight": block.feed_forward[0].weight.T,  # type: ignore[dict-item,index]
            f"{at}.mlp.c_proj.weight": block.feed_forward[2].weight.T,  # type: ignore[dict-item,index]
        }
    for name, value in named.items():
        assert state[name].shape == value.shape, name
        state[name] = value.detach().clone()
    theirs.load_state_dict(state)
    return ours, theirs


def texts(n: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(1, VOCABULARY, (n, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", [1, 7, CONTEXT])
def test_logits(shape: tuple[int, int, int], tied: bool, length: int) -> None:
    ours, theirs = models(*shape, tied=tied)
    tokens = texts(3, length)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients(shape: tuple[int, int, int]) -> None:
    ours, theirs = models(*shape)
    tokens = texts(4, 20)
    loss = ours.loss(tokens[:, :-1], tokens[:, 1:], padding=-100)
    expected = theirs(tokens, labels=tokens).loss
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    loss.backward()
    expected.backward()
    pairs = [(ours.embedding.weight, theirs.transformer.wte.weight), (ours.positions, theirs.transformer.wpe.weight)]
    for mine, its in pairs:
        torch.testing.assert_close(mine.grad, its.grad, atol=1e-5, rtol=1e-3)
    first: Any = ours.blocks[0]
    torch.testing.assert_close(
        first.attention.qkv.weight.grad, theirs.transformer.h[0].attn.c_attn.weight.grad.T, atol=1e-5, rtol=1e-3
    )


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_attention_maps(shape: tuple[int, int, int]) -> None:
    ours, theirs = models(*shape)
    theirs.set_attn_implementation("eager")
    tokens = texts(2, 12)
    with torch.no_grad():
        maps = torch.stack(theirs(tokens, output_attentions=True).attentions)
        torch.testing.assert_close(ours.attention_maps(tokens), maps, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(2))
def test_greedy_text(shape: tuple[int, int, int], seed: int) -> None:
    """Token by token with cached keys and values, up to where the context is full."""
    ours, theirs = models(*shape, seed=seed)
    prompt = texts(1, 5, seed)
    with torch.no_grad():
        expected = theirs.generate(prompt, max_new_tokens=CONTEXT - 6, do_sample=False, num_beams=1)[0, 5:].tolist()
        steps = continue_texts(
            Reader(ours, 1), prompt.tolist(),
            TextOptions(temperature=0, repetition_penalty=1.0, max_tokens=CONTEXT - 6), None,
            end=END, banned=[], device=torch.device("cpu"),
        )  # fmt: skip
        got = [int(tokens[0]) for tokens, new in steps if bool(new[0])]
    if expected and expected[-1] == END:
        expected.pop()
    assert got == expected


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [(0, 1.0, 0.0), (5, 1.0, 0.0), (0, 0.7, 0.0), (0, 1.0, 0.2), (12, 0.9, 0.0), (9, 0.8, 0.1)],
)
def test_truncated_distributions(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    logits = 2 * torch.randn(6, VOCABULARY, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options = TextOptions(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    p, tokens = candidates(logits, options)
    ours = torch.zeros_like(logits).scatter(1, tokens, p)
    ids = torch.zeros(6, 1, dtype=torch.long)
    expected = TemperatureLogitsWarper(temperature)(ids, logits)
    for active, warper in (
        (top_k > 0, lambda: TopKLogitsWarper(top_k)),
        (top_p < 1, lambda: TopPLogitsWarper(top_p)),
        (min_p > 0, lambda: MinPLogitsWarper(min_p)),
    ):
        if active:
            expected = warper()(ids, expected)
    torch.testing.assert_close(ours, expected.softmax(-1), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("beams", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_beam_search(beams: int, seed: int) -> None:
    """With their length penalty of 0 a text's score is its probability, as ours is."""
    ours, theirs = models(*SHAPES[1], seed=seed)
    prompt = texts(1, 4, seed)
    with torch.no_grad():
        expected = theirs.generate(
            prompt, max_new_tokens=8, do_sample=False, num_beams=beams, length_penalty=0.0, early_stopping="never"
        )[0, 4:].tolist()  # fmt: skip
        got = beam_search(
            Reader(ours, 1), prompt[0].tolist(), beams=beams, max_tokens=8, end=END, banned=[],
            device=torch.device("cpu"),
        )  # fmt: skip
    while expected and expected[-1] == END:
        expected.pop()
    assert got == expected
