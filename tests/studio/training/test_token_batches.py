"""Windows of text: where they lie, how they are padded, and that a resumed run sees the same ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from studio.datasets import TextDataset, load_dataset
from studio.errors import StudioError
from studio.plugin import RayRequest, SampleRequest, TokenBatch, TokenRequest
from studio.training.sources import DatasetSource

CPU = torch.device("cpu")
DOCUMENT = TextDataset("doc", ("abcdefghij",), False)
LINES = TextDataset("rows", tuple("abcdefg"[:n] for n in (1, 2, 3, 4, 7)), True)


class Letters:
    """Ids of letters; counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, text: str) -> Sequence[int]:
        self.calls += 1
        return [ord(letter) - ord("a") for letter in text]


def tokens(source: DatasetSource, request: TokenRequest) -> torch.Tensor:
    batch = source.next(request)
    assert isinstance(batch, TokenBatch)
    assert batch.tokens.dtype == torch.int64
    return batch.tokens


def test_windows_of_a_document_lie_at_all_places_evenly() -> None:
    letters = Letters()
    source = DatasetSource(DOCUMENT, 0, CPU)
    found = torch.cat([tokens(source, TokenRequest(100, 3, letters.encode)) for _ in range(30)])
    assert found.shape == (3000, 4)
    assert (found.diff(dim=1) == 1).all()
    # Ten letters have seven windows of four; 3,000 draws give each 429 or so.
    counts = torch.bincount(found[:, 0], minlength=7)
    assert len(counts) == 7
    assert counts.min() > 330
    assert letters.calls == 1


def test_lines_are_cut_and_padded_each_once_an_epoch() -> None:
    letters = Letters()
    source = DatasetSource(LINES, 0, CPU)
    request = TokenRequest(5, 3, letters.encode, padding=99)
    first, second = tokens(source, request), tokens(source, request)
    expected = {(0, 99, 99, 99), (0, 1, 99, 99), (0, 1, 2, 99), (0, 1, 2, 3)}
    for epoch in (first, second):
        assert {tuple(row) for row in epoch.tolist()} == expected
    assert letters.calls == 5
    assert not torch.equal(first, second)


@pytest.mark.parametrize("data", [DOCUMENT, LINES])
def test_a_restored_source_goes_on_as_if_never_stopped(data: TextDataset) -> None:
    letters = Letters()
    request = TokenRequest(4, 2, letters.encode, padding=50)
    source = DatasetSource(data, 7, CPU)
    for _ in range(3):
        tokens(source, request)
    state = source.state()
    ahead = [tokens(source, request) for _ in range(4)]
    restored = DatasetSource(data, 7, CPU)
    restored.load_state(state)
    for expected in ahead:
        assert torch.equal(tokens(restored, request), expected)
    other = DatasetSource(data, 8, CPU)
    assert any(not torch.equal(tokens(other, request), tokens(source, request)) for _ in range(5))


def test_another_tokenizer_is_asked_anew() -> None:
    source = DatasetSource(DOCUMENT, 0, CPU)
    tokens(source, TokenRequest(1, 2, Letters().encode))
    shifted = tokens(source, TokenRequest(200, 2, lambda text: [100] * len(text)))
    assert (shifted == 100).all()


def test_requests_that_do_not_fit_the_data() -> None:
    source = DatasetSource(DOCUMENT, 0, CPU)
    with pytest.raises(StudioError, match="10 tokens, and one window needs 11"):
        source.next(TokenRequest(1, 10, Letters().encode))
    assert tokens(source, TokenRequest(1, 9, Letters().encode)).tolist() == [list(range(10))]
    with pytest.raises(StudioError, match="is text"):
        source.next(SampleRequest(2))
    with pytest.raises(TypeError, match="RayRequest"):
        source.next(RayRequest(2))
    points = DatasetSource(load_dataset("toy:moons", samples=20), 0, CPU)
    with pytest.raises(StudioError, match="is no text"):
        points.next(TokenRequest(1, 2, Letters().encode))
