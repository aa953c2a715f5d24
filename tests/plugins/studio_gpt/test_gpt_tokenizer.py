"""Tokenizers: the ids that are specified, and that text survives the way there and back."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.errors import StudioError
from studio_gpt.tokenizer import (
    BpeTokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    IncrementalDecoder,
    Tokenizer,
    WordTokenizer,
    tokenizer_from_dict,
    train_tokenizer,
)
from studio_gpt.vocabulary import Vocabulary

TEXT = "It was the best of times, it was the worst of times;\nit was the age of wisdom… naïve café 東京 🙂.\n" * 3
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def test_word_ids_are_those_specified() -> None:
    tokenizer = WordTokenizer(["a", "b", "c", "d", " "])
    assert (tokenizer.bos, tokenizer.eos, tokenizer.unk, tokenizer.pad) == (5, 6, 7, 8)
    assert tokenizer.vocab_size == 9
    assert tokenizer.encode("a b c d e") == [0, 4, 1, 4, 2, 4, 3, 4, 7]
    assert tokenizer.decode([0, 4, 1, 4, 7]) == "a b <unk>"
    assert tokenizer.unknown("a e b e f") == ["e", "f"]


def test_words_blanks_and_marks_are_tokens_of_their_own() -> None:
    tokenizer = WordTokenizer.train(["don't stop,  now\n"], 100)
    assert [tokenizer.label(i) for i in tokenizer.encode("don't stop,  now\n")] == [
        "don", "'", "t", " ", "stop", ",", " ", " ", "now", "\n"
    ]  # fmt: skip


def test_a_word_vocabulary_keeps_the_most_frequent_words() -> None:
    tokenizer = WordTokenizer.train(["b b b a a c", "d"], vocab_size=4 + 3)
    # The blank occurs five times, b three times, a twice.
    assert [tokenizer.label(i) for i in range(3)] == [" ", "b", "a"]
    assert tokenizer.encode("c") == [tokenizer.unk]


@settings(deadline=None, max_examples=200)
@given(TEXTS)
def test_bytes_express_every_text(text: str) -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size == 260


@pytest.fixture(scope="module")
def bpe() -> BpeTokenizer:
    return BpeTokenizer.train([TEXT], vocab_size=300)


@settings(deadline=None, max_examples=200)
@given(text=TEXTS)
def test_byte_pairs_express_every_text(bpe: BpeTokenizer, text: str) -> None:
    assert bpe.decode(bpe.encode(text)) == text


def test_byte_pairs_shorten_the_text_they_were_learned_from(bpe: BpeTokenizer) -> None:
    assert bpe.vocab_size == 300
    assert len(bpe.encode(TEXT)) < 0.6 * len(TEXT.encode())


@settings(deadline=None, max_examples=100)
@given(st.text(string.ascii_letters + " .,\n'", min_size=1, max_size=60))
def test_words_and_characters_restore_texts_of_known_pieces(text: str) -> None:
    for kind in ("word", "character"):
        tokenizer = train_tokenizer(kind, [text], 1000)  # type: ignore[arg-type]
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unknown_characters_are_named() -> None:
    tokenizer = CharacterTokenizer.train(["abc"], 100)
    assert tokenizer.encode("cab") == [2, 0, 1]
    with pytest.raises(StudioError, match="'x', '東'"):
        tokenizer.encode("axb東x")


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [("character", 6, "3 different characters"), ("bpe", 100, "too small"), ("word", 4, "no room")],
)
def test_too_small_vocabularies_are_refused(kind: str, size: int, message: str) -> None:
    with pytest.raises(StudioError, match=message):
        train_tokenizer(kind, ["abc"], size)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["word", "character", "byte", "bpe"])
def test_plain_data_restores_a_tokenizer(kind: str) -> None:
    tokenizer = train_tokenizer(kind, [TEXT], 320)  # type: ignore[arg-type]
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    assert again.pieces == tokenizer.pieces
    # As part of a module's state, which is tensors only.
    state = Vocabulary(tokenizer, whole=True).state_dict()
    restored = Vocabulary()
    restored.load_state_dict(state)
    assert restored.whole
    assert restored.tokenizer.encode(TEXT) == tokenizer.encode(TEXT)


@settings(deadline=None, max_examples=100)
@given(text=TEXTS)
def test_streaming_gives_whole_characters_only(bpe: BpeTokenizer, text: str) -> None:
    tokenizers: list[Tokenizer] = [ByteTokenizer(), bpe]
    for tokenizer in tokenizers:
        decoder = IncrementalDecoder(tokenizer)
        pieces = [decoder.push(token) for token in tokenizer.encode(text)] + [decoder.finish()]
        assert "".join(pieces) == text


def test_a_broken_character_at_the_end_is_marked() -> None:
    tokenizer = ByteTokenizer()
    decoder = IncrementalDecoder(tokenizer)
    assert [decoder.push(token) for token in "é".encode()[:1]] == [""]
    assert decoder.finish() == "\ufffd"
