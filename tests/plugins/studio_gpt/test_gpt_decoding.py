"""Decoding: every step of the chain by hand, their order, and texts of different prompts at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.errors import StudioError
from studio_gpt.beam import beam_search
from studio_gpt.decoding import TextOptions, candidates, continue_texts, draw, next_tokens, penalize
from studio_gpt.gpt import GPT, GPTShape
from studio_gpt.rnn import RNN
from studio_gpt.windows import Reader, score, window_start

PLAIN = {"temperature": 1.0, "top_k": 0, "repetition_penalty": 1.0}


def test_the_specified_defaults() -> None:
    options = TextOptions()
    chosen = (options.temperature, options.top_k, options.repetition_penalty, options.max_tokens)
    assert chosen == (0.8, 50, 1.01, 256)
    assert (options.top_p, options.min_p) == (1.0, 0.0)


def test_the_penalty_divides_positive_logits_and_multiplies_negative_ones() -> None:
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0, 0.0]])
    counts = torch.tensor([[3.0, 3.0, 0.0, 0.0, 1.0]])
    got = penalize(logits, counts, 2.0)
    assert got.tolist() == [[2.0 / 8, -2.0 * 8, 2.0, -2.0, 0.0]]


def by_token(logits: list[float], **options: float) -> dict[int, float]:
    p, tokens = candidates(torch.tensor([logits]), TextOptions(**{**PLAIN, **options}))  # type: ignore[arg-type]
    return {int(t): float(v) for t, v in zip(tokens[0], p[0], strict=True) if v > 0}


# Probabilities 0.4, 0.3, 0.2, 0.1 in a mixed order.
LOGITS = [math.log(0.2), math.log(0.4), math.log(0.1), math.log(0.3)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {0: 0.2, 1: 0.4, 2: 0.1, 3: 0.3}),
        ({"top_k": 2}, {1: 4 / 7, 3: 3 / 7}),
        ({"top_k": 9}, {0: 0.2, 1: 0.4, 2: 0.1, 3: 0.3}),
        # 0.4 + 0.3 = 0.7 reaches 0.65, 0.4 alone does not.
        ({"top_p": 0.65}, {1: 4 / 7, 3: 3 / 7}),
        ({"top_p": 0.75}, {1: 4 / 9, 3: 3 / 9, 0: 2 / 9}),
        ({"top_p": 0.01}, {1: 1.0}),
        # 0.6 of 0.4 is 0.24.
        ({"min_p": 0.6}, {1: 4 / 7, 3: 3 / 7}),
        ({"min_p": 1.0}, {1: 1.0}),
        # The nucleus is that of the three kept by top-k: 4/9 + 3/9 = 0.78 reaches 0.75, unlike 0.7 of all four.
        ({"top_k": 3, "top_p": 0.75}, {1: 4 / 7, 3: 3 / 7}),
        # p^2: 0.16, 0.09, 0.04, 0.01, of 0.3.
        ({"temperature": 0.5}, {0: 4 / 30, 1: 16 / 30, 2: 1 / 30, 3: 9 / 30}),
        # The temperature comes before the nucleus (0.83 in two) and before min-p (0.04 / 0.16 is below 0.3).
        ({"temperature": 0.5, "top_p": 0.8}, {1: 16 / 25, 3: 9 / 25}),
        ({"temperature": 0.5, "min_p": 0.3}, {1: 16 / 25, 3: 9 / 25}),
    ],
)
def test_truncation_by_hand(options: dict[str, float], expected: dict[int, float]) -> None:
    assert by_token(LOGITS, **options) == pytest.approx(expected)


def test_the_penalty_comes_before_the_temperature_and_top_k() -> None:
    """4 / 2^1 = 2 falls behind 3: top-1 then takes token 1. Penalised after top-k, token 0 would stay alone."""
    logits, counts = torch.tensor([[4.0, 3.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    for temperature in (0.0, 0.1, 1.0):
        options = TextOptions(temperature=temperature, top_k=1, repetition_penalty=2.0)
        assert next_tokens(logits, counts, options, torch.Generator()).tolist() == [1]


def test_banned_tokens_stay_banned_under_a_penalty() -> None:
    logits = torch.tensor([[1.0, -math.inf, 0.0]])
    counts = torch.tensor([[1.0, 4.0, 0.0]])
    got = penalize(logits, counts, 1.5)
    assert got[0, 1] == -math.inf
    assert not torch.isnan(got).any()


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**31), st.integers(2, 9))
def test_draws_never_hit_what_was_left_out(seed: int, m: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(4, m, dtype=torch.float64, generator=generator)
    p[:, torch.randint(m, (1,), generator=generator)] = 0
    for value in (0.0, 1 - 2**-53, float(torch.rand((), generator=generator))):
        drawn = draw(p, torch.full((4,), value, dtype=torch.float64))
        assert (p.gather(1, drawn[:, None]) > 0).all()


def test_draws_follow_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    n = 40_000
    logits = torch.tensor([LOGITS]).expand(n, 4)
    drawn = next_tokens(logits, None, TextOptions(**PLAIN), generator)  # type: ignore[arg-type]
    share = torch.bincount(drawn, minlength=4) / n
    # Five standard deviations of a share of 0.4 are 0.012.
    torch.testing.assert_close(share, torch.tensor([0.2, 0.4, 0.1, 0.3]), atol=0.0125, rtol=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1.0), ("temperature", math.inf), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.5), ("min_p", -0.1),
     ("repetition_penalty", 0.0), ("max_tokens", 0)],
)  # fmt: skip
def test_impossible_options_are_refused(field: str, value: float) -> None:
    with pytest.raises(StudioError, match=f"{field}: .* must be .*--{field.replace('_', '-')}"):
        TextOptions(**{field: value}).check()  # type: ignore[arg-type]


V, END = 12, 9


def model(context: int = 8) -> GPT:
    torch.manual_seed(0)
    return GPT(V, GPTShape(width=16, layers=2, heads=2, context=context)).double().eval()


def continued(
    network: GPT | RNN,
    prompts: Sequence[Sequence[int]],
    seed: int = 0,
    *,
    cached: bool = True,
    banned: tuple[int, ...] = (10, 11),
    **options: float,
) -> list[list[int]]:
    made: list[list[int]] = [[] for _ in prompts]
    steps = continue_texts(
        Reader(network, len(prompts), cached=cached),
        prompts,
        TextOptions(**options),  # type: ignore[arg-type]
        torch.Generator().manual_seed(seed),
        end=END,
        banned=banned,
        device=torch.device("cpu"),
    )
    with torch.no_grad():
        for tokens, new in steps:
            for row in new.nonzero()[:, 0].tolist():
                made[row].append(int(tokens[row]))
    return made


def test_rows_of_different_prompts_get_what_each_gets_alone() -> None:
    network = model()
    prompts = [[8], [8, 1, 2, 3], [8, 5], [8, *range(8), 1, 2, 3]]
    together = continued(network, prompts, temperature=0.0, max_tokens=20)
    assert together == [continued(network, [prompt], temperature=0.0, max_tokens=20)[0] for prompt in prompts]
    assert all(len(row) <= 20 for row in together)


def test_equal_seeds_repeat_and_others_do_not() -> None:
    network = model()
    runs = [continued(network, [[8]] * 3, seed, temperature=1.5, top_k=0, max_tokens=30) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[0][0] != runs[0][1]
    # Specials are never drawn, and a text ends before its end token.
    assert not {END, 10, 11} & {token for row in runs[0] for token in row}


def test_a_high_penalty_forbids_repetition() -> None:
    network = model(32)
    (row,) = continued(network, [[8]], temperature=0.0, repetition_penalty=1e9, max_tokens=9)
    assert len(row) == len(set(row))


def test_the_window_moves_by_half_the_context() -> None:
    assert [window_start(n, 8) for n in (1, 8, 9, 12, 13, 16, 17)] == [0, 0, 4, 4, 8, 8, 12]
    assert window_start(10**6, None) == 0
    for context in (1, 2, 3, 7, 64):
        for length in range(1, 300):
            seen = length - window_start(length, context)
            assert max(context - max(context // 2, 1), 0) < seen <= context or length < context


@pytest.mark.parametrize("context", [3, 8])
def test_cached_reading_past_the_context_is_uncached_reading(context: int) -> None:
    network = model(context)
    x = torch.randint(V, (2, 50), generator=torch.Generator().manual_seed(0))
    cached, uncached = Reader(network, 2), Reader(network, 2, cached=False)
    for part in x.split([5, *[1] * 37, 6, 1, 1], dim=1):
        a, b = cached.read(part), uncached.read(part)
        torch.testing.assert_close(a, b)
    start = window_start(50, context)
    torch.testing.assert_close(a, network(x[:, start:])[:, -1])


def test_cached_sampling_is_uncached_sampling() -> None:
    network = model()
    # Texts without an end, so that they reach beyond the context.
    texts = [
        continued(network, [[8], [8, 1, 2]], cached=cached, banned=(END, 10, 11), temperature=1.0, max_tokens=40)
        for cached in (False, True)
    ]
    assert texts[0] == texts[1]
    assert [len(text) for text in texts[0]] == [40, 40]


@pytest.mark.parametrize("kind", ["gpt", "rnn"])
def test_a_head_read_by_columns_gives_the_same_logits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = model() if kind == "gpt" else RNN(V, width=8).double().eval()
    x = torch.randint(V, (2, 11), generator=torch.Generator().manual_seed(0))
    plain = Reader(network, 2)
    monkeypatch.setattr("studio_gpt.windows._LARGE_HEAD", 1)
    by_columns = Reader(network, 2)
    for token in x.split(1, dim=1):
        torch.testing.assert_close(by_columns.read(token), plain.read(token))


@pytest.mark.parametrize("length", [2, 8, 9, 10, 13, 61])
def test_scores_are_the_probabilities_that_sampling_uses(length: int) -> None:
    x = torch.randint(V, (length,), generator=torch.Generator().manual_seed(length))
    torch.manual_seed(0)
    for network in (model(), model(3), RNN(V, width=8).double().eval()):
        with torch.no_grad():
            got = score(network, x)
            reader = Reader(network, 1)
            for t in range(length - 1):
                expected = reader.read(x[None, t : t + 1])[0].log_softmax(-1)[x[t + 1]]
                torch.testing.assert_close(got[t], expected, msg=f"token {t + 1}")
        assert got.shape == (length - 1,)


def test_long_texts_are_scored_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    network = model()
    x = torch.randint(V, (200,), generator=torch.Generator().manual_seed(0))
    recurrent = RNN(V, width=8).double().eval()
    with torch.no_grad():
        whole = [score(network, x), score(recurrent, x)]
        monkeypatch.setattr("studio_gpt.windows._TOKENS_AT_ONCE", 24)
        for expected, got in zip(whole, [score(network, x), score(recurrent, x)], strict=True):
            torch.testing.assert_close(got, expected)


def test_probabilities_of_all_texts_sum_to_one() -> None:
    """Beyond the context, too: the windows define one distribution."""
    torch.manual_seed(0)
    network = GPT(3, GPTShape(width=8, layers=1, heads=1, context=2)).double().eval()
    grid = torch.cartesian_prod(*[torch.arange(3)] * 4)
    with torch.no_grad():
        total = sum(float(score(network, torch.cat([torch.tensor([0]), row])).sum().exp()) for row in grid)
    assert total == pytest.approx(1.0)


def searched(network: GPT, prompt: list[int], beams: int, max_tokens: int) -> list[int]:
    with torch.no_grad():
        return beam_search(
            Reader(network, 1),
            prompt,
            beams=beams,
            max_tokens=max_tokens,
            end=END,
            banned=(10, 11),
            device=torch.device("cpu"),
        )


def test_one_beam_is_greedy() -> None:
    network = model()
    for first in range(5):
        greedy = continued(network, [[8, first]], temperature=0.0, repetition_penalty=1.0, max_tokens=20)
        assert searched(network, [8, first], 1, 20) == greedy[0]


@pytest.mark.parametrize("seed", range(4))
def test_enough_beams_find_the_likeliest_text(seed: int) -> None:
    """Against all texts of at most three tokens, those that end before and those that are cut."""
    network = model()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        network.head.weight.copy_(2 * torch.randn(V, 16, generator=generator))
        ordinary = torch.arange(9)
        every: dict[tuple[int, ...], float] = {}
        for length in range(4):
            grid = torch.cartesian_prod(*[ordinary] * length).view(-1, length) if length else torch.zeros(1, 0).long()
            for row in grid:
                ended = [END] if length < 3 else []
                text = torch.tensor([8, *row.tolist(), *ended])
                every[tuple(row.tolist())] = float(score(network, text).sum())
    best = max(every, key=every.__getitem__)
    assert tuple(searched(network, [8], 9**3, 3)) == best
    few = tuple(searched(network, [8], 3, 3))
    assert every[best] >= every[few]
