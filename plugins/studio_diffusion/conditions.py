"""Conditions: what class or caption means to the network, and the empty condition of classifier-free guidance."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from studio.errors import StudioError
from studio_diffusion.unet import attend

_WORD = re.compile(r"\w+|[^\w\s]")
PADDING, UNKNOWN = 0, 1
_MOST_WORDS = 4096
_HEAD = 32
"""Channels of an attention head."""
_BEFORE = 3
"""Words that a word is read along with."""
_POSITION_SPREAD = 0.1
"""Deviation of the vectors of places at first: less than that of the words, whose order matters less than they do."""


def words_of(caption: str) -> list[str]:
    """Lower-case words and signs of a caption."""
    return _WORD.findall(caption.lower())


def vocabulary_of(captions: Sequence[str]) -> list[str]:
    """The words of all captions, the most frequent first, equally frequent ones in alphabetical order."""
    counts: dict[str, int] = {}
    for caption in captions:
        for word in words_of(caption):
            counts[word] = counts.get(word, 0) + 1
    return sorted(counts, key=lambda word: (-counts[word], word))[:_MOST_WORDS]


class ClassCondition(nn.Module):
    """One vector a class, and one for 'no class'."""

    def __init__(self, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, embedding_dim)

    def forward(self, labels: Int[Tensor, " b"]) -> Float[Tensor, "b e"]:
        """Labels in [0, num_classes]; the last stands for no class."""
        return self.table(labels)


class WordBlock(nn.Module):
    """A pre-norm transformer block (Vaswani et al. 2017; Xiong et al. 2020) that begins as the identity.

    Captions differ in few words: attention that is spread over all of them, as it is at first, would give every word
    the same vector, and drown what it is itself.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = dim // _HEAD if dim % _HEAD == 0 else 1
        self.norm1 = nn.LayerNorm(dim)
        self.inputs = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 4 * dim)
        self.narrow = nn.Linear(4 * dim, dim)
        for layer in (self.output, self.narrow):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "b l d"], present: Bool[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        q, k, v = self.inputs(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.output(attend(q, k, v, present[:, None, None, :]).transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.widen(self.norm2(x))))


class CaptionEncoder(nn.Module):
    """A small transformer that reads captions, each word along with the three before it.

    A noun thereby carries its adjectives before attention has learnt to look for them. The words go to cross-attention;
    their mean is added to the embedding of the noise level. A caption without words is the empty condition: it reads as
    one padding word.
    """

    def __init__(self, embedding_dim: int, *, dim: int = 128, layers: int = 2, length: int = 48) -> None:
        super().__init__()
        self.length = length
        self._know([])
        self.table = nn.Embedding(2, dim)
        self.position = nn.Parameter(_POSITION_SPREAD * torch.randn(length, dim))
        self.before = nn.Conv1d(dim, dim, _BEFORE + 1)
        self.blocks = nn.ModuleList(WordBlock(dim) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.pooled = nn.Linear(dim, embedding_dim)

    def set_vocabulary(self, words: Sequence[str]) -> None:
        """Learn to read these words; their vectors are drawn anew."""
        self.make_room(len(words) + 2)
        self._know(words)

    def make_room(self, rows: int) -> None:
        """A table of word vectors for so many words, to load a saved one into."""
        self.table = nn.Embedding(rows, self.table.embedding_dim).to(self.table.weight.device)

    def _know(self, words: Sequence[str]) -> None:
        self.vocabulary = list(words)
        self._ids = {word: i + 2 for i, word in enumerate(words)}

    def get_extra_state(self) -> Tensor:
        """The vocabulary, as part of the model's state: a run opens without its data."""
        return torch.frombuffer(bytearray(json.dumps(self.vocabulary).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self._know(json.loads(bytes(state.cpu().numpy())))

    def tokens(self, captions: Sequence[str]) -> Int[Tensor, "b l"]:
        """Word ids, as long as the longest caption needs; padding is 0.

        Raises:
            StudioError: A caption without any known word (an empty one is none), or one that is too long.
        """
        rows = []
        for caption in captions:
            words = words_of(caption)
            row = [self._ids.get(word, UNKNOWN) for word in words]
            if words and all(i == UNKNOWN for i in row):
                known = ", ".join(self.vocabulary[:12])
                raise StudioError(
                    f"caption '{caption}': the model was trained with none of these words.",
                    fix=f"Some that it knows: {known}.",
                )
            if len(row) > self.length:
                raise StudioError(
                    f"caption '{caption[:40]}…': {len(row)} words, the model reads {self.length}.",
                    fix="Shorten it, or train with a larger --caption-length.",
                )
            rows.append(torch.tensor(row or [PADDING]))
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING)

    def unknown_words(self, caption: str) -> list[str]:
        """Words of a caption that training never saw."""
        return [word for word in words_of(caption) if word not in self._ids]

    def forward(
        self, tokens: Int[Tensor, "b l"]
    ) -> tuple[Float[Tensor, "b e"], Float[Tensor, "b l d"], Bool[Tensor, "b l"]]:
        """Pooled condition, words, and which of them are there."""
        present = tokens != PADDING
        present = torch.cat([torch.ones_like(present[:, :1]), present[:, 1:]], dim=1)
        x = self.table(tokens)
        together = self.before(F.pad(x.transpose(1, 2), (_BEFORE, 0))).transpose(1, 2)
        x = x + together + self.position[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, present)
        x = self.norm(x)
        share = present[:, :, None].float()
        mean = (x * share).sum(dim=1) / share.sum(dim=1)
        return self.pooled(F.silu(mean)), x, present
