"""Text to token ids and back: words, characters, bytes, or byte pairs.

Every vocabulary is a table V0 of byte strings, followed by four special tokens in this order: BOS (begin), EOS (end),
UNK (unknown), PAD (padding). With V0 = a, b, c, d and the space, they have the ids 5, 6, 7 and 8, and the word
tokenizer turns 'a b c d e' into 0 4 1 4 2 4 3 4 7. A tokenizer is plain JSON, so it travels with the model's weights.
"""

from __future__ import annotations

import codecs
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal

from studio.errors import StudioError

TokenizerKind = Literal["word", "character", "byte", "bpe"]

SPECIALS = ("BOS", "EOS", "UNK", "PAD")
UNKNOWN_WORD = "<unk>"

# A word, one blank, or one mark: the pieces of a text joined together are the text.
_WORD = re.compile(r"\w+|\s|[^\w\s]")
_SHOWN = 5


class Tokenizer(ABC):
    """A vocabulary and the way a text is cut into it.

    Args:
        pieces: V0: the text, as UTF-8 bytes, that each ordinary token stands for; the specials come after it.
    """

    kind: ClassVar[TokenizerKind]

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = tuple(pieces)
        self.bos, self.eos, self.unk, self.pad = range(len(self.pieces), len(self.pieces) + len(SPECIALS))

    @property
    def vocab_size(self) -> int:
        """Ordinary tokens and specials together."""
        return len(self.pieces) + len(SPECIALS)

    @property
    def never_drawn(self) -> tuple[int, ...]:
        """Tokens that no text is continued with."""
        return self.bos, self.unk, self.pad

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without BOS and EOS.

        Raises:
            StudioError: The text has characters that the vocabulary cannot express.
        """

    def encode_any(self, text: str) -> list[int]:
        """As `encode`, with UNK for what the vocabulary cannot express: to score a text, not to go on with it."""
        return self.encode(text)

    def unknown(self, text: str) -> list[str]:
        """What `encode_any` turns into UNK, each once, in the text's order."""
        return []

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that a token stands for; they may end within a character. Nothing for BOS, EOS and PAD."""
        if token < len(self.pieces):
            return self.pieces[token]
        return UNKNOWN_WORD.encode() if token == self.unk else b""

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", errors="replace")

    def label(self, token: int) -> str:
        """A token as one shows it: its text, or the name of a special."""
        if token < len(self.pieces):
            return self.pieces[token].decode("utf-8", errors="replace")
        return f"<{SPECIALS[token - len(self.pieces)].lower()}>"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `tokenizer_from_dict` is the inverse."""
        return {"kind": self.kind, "pieces": [piece.decode("utf-8") for piece in self.pieces]}


class WordTokenizer(Tokenizer):
    """Words, blanks and punctuation marks are tokens; unknown words become UNK."""

    kind = "word"

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__([word.encode() for word in words])
        self._ids = {word: i for i, word in enumerate(words)}

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> WordTokenizer:
        """The most frequent words of some texts, most frequent first."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(_WORD.findall(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(ranked[: vocab_size - len(SPECIALS)])

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(word, self.unk) for word in _WORD.findall(text)]

    def unknown(self, text: str) -> list[str]:
        return list(dict.fromkeys(word for word in _WORD.findall(text) if word not in self._ids))


class CharacterTokenizer(Tokenizer):
    """Each character is a token; a text with other characters than the training text's is refused."""

    kind = "character"

    def __init__(self, characters: Sequence[str]) -> None:
        super().__init__([character.encode() for character in characters])
        self._ids = {character: i for i, character in enumerate(characters)}

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> CharacterTokenizer:
        """All characters of some texts, in code point order.

        Raises:
            StudioError: There are more of them than `vocab_size` admits.
        """
        found: set[str] = set()
        for text in texts:
            found.update(text)
        if len(found) > vocab_size - len(SPECIALS):
            raise StudioError(
                f"vocab_size: the text has {len(found):,} different characters, {vocab_size:,} are too few tokens.",
                fix=f"Give --vocab-size {len(found) + len(SPECIALS)}, or --tokenizer byte.",
            )
        return cls(sorted(found))

    def encode_any(self, text: str) -> list[int]:
        return [self._ids.get(character, self.unk) for character in text]

    def unknown(self, text: str) -> list[str]:
        return list(dict.fromkeys(character for character in text if character not in self._ids))

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError:
            strange = list(dict.fromkeys(character for character in text if character not in self._ids))
            more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
            raise StudioError(
                f"The text has characters that the model never saw: {', '.join(map(repr, strange[:_SHOWN]))}{more}.",
                fix="Leave them out, or train with --tokenizer byte.",
            ) from None


class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8: every text can be expressed, in four tokens a character at most."""

    kind = "byte"

    def __init__(self) -> None:
        super().__init__([bytes([i]) for i in range(256)])

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", errors="replace"))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind}


class BpeTokenizer(Tokenizer):
    """Byte pair encoding: the most frequent pairs of neighbouring tokens, from bytes on, are merged into new ones.

    Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (ACL 2016), over bytes as in GPT-2.
    The cutting is done by the library `tokenizers`.
    """

    kind = "bpe"

    def __init__(self, serialized: str) -> None:
        import tokenizers

        self._library = tokenizers.Tokenizer.from_str(serialized)
        vocabulary: dict[str, int] = self._library.get_vocab()
        spelling = _byte_of_letter()
        words = sorted(vocabulary, key=vocabulary.__getitem__)
        super().__init__([bytes(spelling[letter] for letter in word) for word in words])

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BpeTokenizer:
        """Learn merges from texts until the vocabulary has `vocab_size` tokens, specials included.

        Raises:
            StudioError: `vocab_size` is too small for the 256 bytes.
        """
        from tokenizers import Tokenizer as Library
        from tokenizers import models, pre_tokenizers, trainers

        if vocab_size < 256 + len(SPECIALS):
            raise StudioError(
                f"vocab_size: {vocab_size} is too small for byte pairs, which begin with 256 bytes.",
                fix=f"Give --vocab-size {256 + len(SPECIALS)} or more.",
            )
        library = Library(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[],
            show_progress=False,
        )
        library.train_from_iterator(texts, trainer)
        return cls(library.to_str())

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._library.encode(text.encode("utf-8", errors="replace").decode("utf-8")).ids
        return ids

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "library": self._library.to_str()}


class IncrementalDecoder:
    """Tokens in, text out, for streaming: a character comes out once all its bytes are there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that this token completes; often empty for bytes."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What is left of an unfinished character."""
        return self._decoder.decode(b"", final=True)


def train_tokenizer(kind: TokenizerKind, texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of the kind whose vocabulary comes from the texts, of at most `vocab_size` tokens.

    Raises:
        StudioError: The size does not suffice for the kind, or the texts are empty.
    """
    if vocab_size <= len(SPECIALS):
        raise StudioError(f"vocab_size: {vocab_size} leaves no room beside the {len(SPECIALS)} special tokens.")
    if kind == "byte":
        return ByteTokenizer()
    learners: dict[str, Callable[[Iterable[str], int], Tokenizer]] = {
        "word": WordTokenizer.train,
        "character": CharacterTokenizer.train,
        "bpe": BpeTokenizer.train,
    }
    tokenizer = learners[kind](texts, vocab_size)
    if not tokenizer.pieces:
        raise StudioError("The text is empty: there is no vocabulary to learn.", fix="Give a text with words in it.")
    return tokenizer


def tokenizer_from_dict(data: dict[str, Any]) -> Tokenizer:
    """Inverse of `Tokenizer.to_dict`."""
    kind = data["kind"]
    if kind == "word":
        return WordTokenizer(data["pieces"])
    if kind == "character":
        return CharacterTokenizer(data["pieces"])
    if kind == "byte":
        return ByteTokenizer()
    if kind == "bpe":
        return BpeTokenizer(data["library"])
    raise StudioError(f"The run's vocabulary is of the unknown kind '{kind}'.", fix="Update the plugin.")


def _byte_of_letter() -> dict[str, int]:
    """The library spells bytes as printable letters: those of Latin-1 as themselves, the rest from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
