"""The `gpt` plugin: language models of text as a Generator."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from studio.datasets import Dataset
from studio.errors import StudioError
from studio.plugin import DataInfo, Generator, TokenBatch, TokenRequest, TrainingContext
from studio.plugin.modes import evaluating
from studio.plugin.noise import rows_of
from studio_gpt.beam import beam_search
from studio_gpt.config import GPTConfig
from studio_gpt.decoding import TextOptions, continue_texts
from studio_gpt.gpt import GPT, GPTShape, check_heads
from studio_gpt.language_model import LanguageModel
from studio_gpt.optimization import Optimization
from studio_gpt.rnn import RNN
from studio_gpt.tokenizer import UNKNOWN_WORD, IncrementalDecoder, Tokenizer, train_tokenizer
from studio_gpt.vocabulary import Vocabulary
from studio_gpt.wavenet import WaveNet
from studio_gpt.windows import Reader, score, window_start

_log = logging.getLogger(__name__)
_TEXTS_AT_ONCE = 64
_LAYERS = {"gpt": 6, "rnn": 1, "wavenet": 8}
_SHOWN = 5


class TextGenerator(Generator):
    """Draws, continues and scores texts, a token at a time."""

    config: GPTConfig
    sample_options = TextOptions
    likelihood_kind: ClassVar[str] = "exact"

    def __init__(self, config: GPTConfig, data_info: DataInfo) -> None:
        super().__init__(config, data_info)
        # The vocabulary comes from the data; until then the network has its largest size.
        self.network = _network(config, config.vocab_size)
        self.vocabulary = Vocabulary()

    @property
    def tokenizer(self) -> Tokenizer:
        return self.vocabulary.tokenizer

    def networks(self) -> dict[str, torch.nn.Module]:
        return {self.config.model: self.network}

    # ---- training ------------------------------------------------------------------------------------------------
    def initialize(self, dataset: Dataset, generator: torch.Generator) -> None:
        texts = getattr(dataset, "texts", None)
        if not texts:
            raise StudioError(
                f"{dataset.name}: is no text, and this plugin learns from text.",
                fix="Give a .txt file, or train 'caption' on captioned pictures.",
            )
        tokenizer = train_tokenizer(self.config.tokenizer, texts, self.config.vocab_size)
        self.vocabulary = Vocabulary(tokenizer, whole=bool(getattr(dataset, "lines", False)))
        self._resize(tokenizer.vocab_size)

    def prepare_state(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        shape = shapes.get("network.embedding.weight")
        if shape is not None:
            self._resize(shape[0])

    def _resize(self, vocab_size: int) -> None:
        if self.network.vocab_size != vocab_size:
            self.network = _network(self.config, vocab_size).to(self.device)

    def setup_training(self, context: TrainingContext) -> None:
        self._context = context
        self._optimization = Optimization(self.network, self.config, context)

    def batch_request(self, step: int) -> TokenRequest:
        return TokenRequest(self.config.batch, self.config.context, self._encode_whole, padding=self.tokenizer.pad)

    def _encode_whole(self, text: str) -> list[int]:
        tokenizer = self.tokenizer
        # Of the training text the vocabulary knows all; of a held-out one, not every character.
        return [tokenizer.bos, *tokenizer.encode_any(text), tokenizer.eos]

    def training_step(self, batch: TokenBatch, step: int) -> dict[str, float | Tensor]:
        # Lines are shorter than the window: what all of them lack need not be computed.
        longest = int((batch.tokens != self.tokenizer.pad).sum(dim=1).max())
        inputs, targets = batch.tokens[:, : longest - 1], batch.tokens[:, 1:longest]
        if not self.vocabulary.whole and self.config.start_share > 0:
            # Windows of a document almost never begin with BOS, but samples and scored texts do.
            hidden = torch.rand(len(inputs), generator=self._context.generator) < self.config.start_share
            first = inputs[:, :1].masked_fill(hidden[:, None].to(inputs.device), self.tokenizer.bos)
            inputs = torch.cat([first, inputs[:, 1:]], dim=1)
        with self._optimization.precision.autocast():
            loss = self.network.loss(inputs, targets, self.tokenizer.pad)
        figures = self._optimization.step(loss, step)
        return {"loss": loss.detach(), **figures}

    def training_state(self) -> dict[str, Any]:
        return self._optimization.state()

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self._optimization.load_state(state)

    # ---- sampling ------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Sequence[int] | Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> list[str]:
        """Draw n texts.

        Args:
            n: How many.
            condition: Prompts, one a text; each stands at the begin of its text. None: from nothing.
            generator: CPU generator.
            options: Fields of `TextOptions`.

        Raises:
            StudioError: A prompt that the vocabulary cannot express, or an impossible option.
        """
        chosen = TextOptions(**options)
        chosen.check()
        prompts = self._prompts(n, condition)
        generator = generator or torch.Generator()
        texts: list[str] = []
        with evaluating(self):
            encoded = self._encode_prompts(prompts) if n else []
            for start in range(0, n, _TEXTS_AT_ONCE):
                part = encoded[start : start + _TEXTS_AT_ONCE]
                texts += self._continue(part, chosen, rows_of(generator, start, len(part)) or generator)
        return [prompt + text for prompt, text in zip(prompts, texts, strict=True)]

    def _prompts(self, n: int, condition: Sequence[int] | Sequence[str] | None) -> list[str]:
        if condition is None:
            return [""] * n
        if len(condition) != n:
            raise ValueError(f"condition must have one prompt a text: {n}, got {len(condition)}")
        prompts = [prompt for prompt in condition if isinstance(prompt, str)]
        if len(prompts) != n:
            raise StudioError("A text model has no classes; its condition is a text to continue.", fix="Give a prompt.")
        return prompts

    def _continue(self, encoded: list[list[int]], options: TextOptions, generator: torch.Generator) -> list[str]:
        if options.beams > 1:
            return [self.tokenizer.decode(self._search(prompt, options)) for prompt in encoded]
        made: list[list[int]] = [[] for _ in encoded]
        reader = Reader(self.network, len(encoded))
        for tokens, new in self._decode(reader, encoded, options, generator):
            for row in new.nonzero()[:, 0].tolist():
                made[row].append(int(tokens[row]))
        return [self.tokenizer.decode(row) for row in made]

    def _encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        rows = [[self.tokenizer.bos, *tokens] for tokens in self._encode(prompts)]
        longest = max(map(len, rows))
        if hidden := window_start(longest, self.network.context):
            _log.warning("A prompt has %s tokens; the model sees its last %s.", f"{longest:,}", f"{longest - hidden:,}")
        return rows

    def _decode(
        self, reader: Reader, encoded: list[list[int]], options: TextOptions, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        end, banned = self.tokenizer.eos, self.tokenizer.never_drawn
        return continue_texts(reader, encoded, options, generator, end=end, banned=banned, device=self.device)

    def _search(self, prompt: list[int], options: TextOptions) -> list[int]:
        return beam_search(
            Reader(self.network, 1),
            prompt,
            beams=options.beams,
            max_tokens=options.max_tokens,
            end=self.tokenizer.eos,
            banned=self.tokenizer.never_drawn,
            device=self.device,
        )

    def stream(self, prompt: str, generator: torch.Generator | None = None, **options: Any) -> Iterator[str]:
        """Continue one prompt and hand out the text as it is made, the prompt first.

        Raises:
            StudioError: As `sample`, at once rather than when the first piece is asked for.
        """
        chosen = TextOptions(**options)
        chosen.check()
        (encoded,) = self._encode_prompts([prompt])
        return self._stream(prompt, encoded, chosen, generator or torch.Generator())

    def _stream(
        self, prompt: str, encoded: list[int], options: TextOptions, generator: torch.Generator
    ) -> Iterator[str]:
        if prompt:
            yield prompt
        if options.beams > 1:
            with torch.no_grad(), evaluating(self):
                found = self._search(encoded, options)
            yield self.tokenizer.decode(found)
            return
        decoder = IncrementalDecoder(self.tokenizer)
        steps = self._decode(Reader(self.network, 1), [encoded], options, generator)
        while True:
            # Modes are set for each step alone: whoever consumes the stream may do anything between two pieces.
            with torch.no_grad(), evaluating(self):
                step = next(steps, None)
            if step is None:
                break
            tokens, new = step
            if bool(new[0]) and (piece := decoder.push(int(tokens[0]))):
                yield piece
        if rest := decoder.finish():
            yield rest

    # ---- scoring -------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def log_likelihood(
        self, x: Sequence[str], condition: Sequence[str] | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " b"]:
        """ln p of each text in nats, exact.

        A model of lines counts the end of the line, a model of one document does not: there a text is an excerpt. A
        text longer than the context is scored by the windows of `studio_gpt.windows`. Words and characters that the
        vocabulary lacks count as UNK, which is logged; `unknown_tokens` counts them.

        Args:
            x: Texts.
            condition: Texts that come before them and are not scored themselves.
        """
        texts = self._encode_any(x)
        before = [[] for _ in texts] if condition is None else self._encode_any(condition)
        with evaluating(self):
            totals = [
                self._score(given + tokens)[len(given) :].sum() for given, tokens in zip(before, texts, strict=True)
            ]
        return torch.stack(totals) if totals else torch.zeros(0, dtype=torch.float64)

    def unknown_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens of some texts are UNK to the model."""
        return sum(self.tokenizer.encode_any(text).count(self.tokenizer.unk) for text in texts)

    @torch.no_grad()
    def perplexity(self, texts: Sequence[str]) -> float:
        """exp of the mean nats a token, over all texts."""
        with evaluating(self):
            scores = torch.cat([self._score(tokens) for tokens in self._encode_any(texts)])
        return float((-scores.mean()).exp())

    def _score(self, encoded: list[int]) -> Tensor:
        end = [self.tokenizer.eos] if self.vocabulary.whole else []
        return score(self.network, torch.tensor([self.tokenizer.bos, *encoded, *end], device=self.device))

    # ---- looking inside ------------------------------------------------------------------------------------------
    @torch.no_grad()
    def attention_maps(self, text: str) -> Float[Tensor, "layers heads t t"]:
        """How much each token (row) takes from each token before it (column), of every layer and head.

        The first of the t tokens is BOS; `token_labels` names them. A text beyond the context is cut to its last part.

        Raises:
            StudioError: The model has no attention.
        """
        if not isinstance(self.network, GPT):
            raise StudioError(f"A {self.config.model} has no attention.", fix="Train a run with --model gpt.")
        tokens = torch.tensor([self._window(text)], device=self.device)
        with evaluating(self):
            return self.network.attention_maps(tokens)[:, 0]

    def token_labels(self, text: str) -> list[str]:
        """The tokens that `attention_maps` shows, as text."""
        return [self.tokenizer.label(token) for token in self._window(text)]

    def _window(self, text: str) -> list[int]:
        tokens = [self.tokenizer.bos, *self._encode([text])[0]]
        limit = self.network.context or len(tokens)
        if len(tokens) > limit:
            _log.warning("The text has %s tokens; its last %s are shown.", f"{len(tokens):,}", limit)
        return tokens[-limit:]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of texts to go on with; raises StudioError where a character has none."""
        tokens = [self.tokenizer.encode(text) for text in texts]
        self._note_unknown(texts)
        return tokens

    def _encode_any(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of texts to score, UNK for what the model does not know."""
        self._note_unknown(texts)
        return [self.tokenizer.encode_any(text) for text in texts]

    def _note_unknown(self, texts: Sequence[str]) -> None:
        """A note about what the model does not know."""
        unknown = list(dict.fromkeys(word for text in texts for word in self.tokenizer.unknown(text)))
        if unknown:
            more = f" and {len(unknown) - _SHOWN:,} more" if len(unknown) > _SHOWN else ""
            shown = ", ".join(map(repr, unknown[:_SHOWN]))
            _log.warning("The model does not know %s%s: read as %s.", shown, more, UNKNOWN_WORD)


def _network(config: GPTConfig, vocab_size: int) -> LanguageModel:
    layers = config.layers or _LAYERS[config.model]
    if config.model == "rnn":
        return RNN(vocab_size, config.width, layers, config.dropout)
    if config.model == "wavenet":
        return WaveNet(vocab_size, config.width, layers, config.dropout)
    check_heads(config.width, config.heads)
    return GPT(vocab_size, GPTShape(config.width, layers, config.heads, config.context, config.dropout, config.tied))
