"""The `caption` plugin: pictures to text, by a convolutional encoder and a GPT.

The encoder's cells stand before the caption as if they were tokens: x = [cell_1 ... cell_P, BOS, w_1, w_2, ...], and
the GPT predicts each word from all cells and the words before it (as in Mokady et al., "ClipCap", 2021, with an encoder
that is trained along). In some training pairs a learned blank stands for every cell, so the same network also knows the
language without a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from studio.datasets import Dataset
from studio.errors import StudioError
from studio.plugin import DataInfo, Generator, SampleBatch, SampleOptions, SampleRequest, TrainingContext
from studio.plugin.modes import evaluating
from studio.plugin.noise import rows_of
from studio_gpt.beam import beam_search
from studio_gpt.config import CaptionConfig
from studio_gpt.decoding import TextOptions, continue_texts
from studio_gpt.gpt import GPT, GPTShape, check_heads
from studio_gpt.language_model import linear_cross_entropy
from studio_gpt.optimization import Optimization
from studio_gpt.picture_encoder import PictureEncoder, shifted
from studio_gpt.tokenizer import Tokenizer, train_tokenizer
from studio_gpt.vocabulary import Vocabulary

_AT_ONCE = 64


@dataclass
class CaptionOptions(SampleOptions):
    """How captions are drawn."""

    temperature: float | None = None
    """0: the likeliest word at each place; above: by lot. Default: 0 for a picture, 1 without one."""
    top_k: int = 0
    """Draw from the k likeliest tokens; 0: from all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    max_tokens: int = 64
    """Most tokens of a caption."""
    beams: int = 1
    """Above 1: search for the likeliest caption with this many open ones."""

    def for_text(self, temperature: float, room: int) -> TextOptions:
        """The chain of `studio_gpt.decoding`, without penalty, as captions repeat 'a' and 'of'.

        Args:
            temperature: Where none was chosen.
            room: Tokens that the model has places for.
        """
        chosen = temperature if self.temperature is None else self.temperature
        options = TextOptions(
            temperature=chosen,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=1.0,
            max_tokens=min(self.max_tokens, room),
            beams=self.beams,
        )
        options.check()
        return options


class Captioner(Generator):
    """Describes pictures."""

    config: CaptionConfig
    sample_options = CaptionOptions
    likelihood_kind: ClassVar[str] = "exact"

    def __init__(self, config: CaptionConfig, data_info: DataInfo) -> None:
        super().__init__(config, data_info)
        check_heads(config.width, config.heads)
        shape = data_info.sample_shape
        # `studio info` builds plugins for points unless told otherwise: any picture will do there.
        picture = (shape[0], shape[1], shape[2]) if len(shape) == 3 else (3, 64, 64)
        self.encoder = PictureEncoder(picture, width=config.width, grid=config.grid, channels=config.encoder_width)
        self.blank = nn.Parameter(0.02 * torch.randn(config.width))
        self.decoder = self._make_decoder(config.vocab_size)
        self.vocabulary = Vocabulary(whole=True)

    def _make_decoder(self, vocab_size: int) -> GPT:
        config = self.config
        # BOS takes a place besides the caption's own tokens.
        context = self.encoder.num_cells + 1 + config.max_tokens
        return GPT(vocab_size, GPTShape(config.width, config.layers, config.heads, context, config.dropout, tied=True))

    @property
    def tokenizer(self) -> Tokenizer:
        return self.vocabulary.tokenizer

    def networks(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "decoder": self.decoder}

    # ---- training ------------------------------------------------------------------------------------------------
    def initialize(self, dataset: Dataset, generator: torch.Generator) -> None:
        if len(dataset.sample_shape) != 3 or not dataset.has_captions:
            raise StudioError(
                f"{dataset.name}: has no captioned pictures.",
                fix="Give shapes:64, or a folder of pictures with captions in metadata.jsonl.",
            )
        config = self.config
        tokenizer = train_tokenizer(config.tokenizer, dataset.captions, config.vocab_size)
        self.vocabulary = Vocabulary(tokenizer, whole=True)
        self._resize(tokenizer.vocab_size)

    def prepare_state(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        shape = shapes.get("decoder.embedding.weight")
        if shape is not None:
            self._resize(shape[0])

    def _resize(self, vocab_size: int) -> None:
        if self.decoder.vocab_size != vocab_size:
            self.decoder = self._make_decoder(vocab_size).to(self.device)

    def setup_training(self, context: TrainingContext) -> None:
        self._context = context
        self._optimization = Optimization(self, self.config, context)

    def batch_request(self, step: int) -> SampleRequest:
        return SampleRequest(self.config.batch)

    def training_step(self, batch: SampleBatch, step: int) -> dict[str, float | Tensor]:
        config, generator = self.config, self._context.generator
        tokens = self._encode_captions(batch.cond)[:, : config.max_tokens + 2].to(batch.x.device)
        dx, dy = torch.randint(-config.shift, config.shift + 1, (2,), generator=generator).tolist()
        hidden = torch.rand(len(tokens), generator=generator) < config.no_picture
        with self._optimization.precision.autocast():
            prefix = self.encoder(shifted(batch.x, dx, dy))
            prefix = torch.where(hidden.to(prefix.device)[:, None, None], self.blank.to(prefix.dtype), prefix)
            loss = self._loss(tokens, prefix)
        figures = self._optimization.step(loss, step)
        return {"loss": loss.detach(), **figures}

    def _loss(self, tokens: Int[Tensor, "b t"], prefix: Float[Tensor, "b cells width"]) -> Float[Tensor, ""]:
        vectors = self.decoder.hidden(tokens[:, :-1], prefix).flatten(0, 1)
        targets = tokens[:, 1:].flatten()
        return linear_cross_entropy(vectors, self.decoder.head.weight, None, targets, ignore=self.tokenizer.pad)

    def _encode_captions(self, captions: Sequence[str]) -> Int[Tensor, "b t"]:
        tokenizer = self.tokenizer
        rows = [torch.tensor([tokenizer.bos, *tokenizer.encode(text), tokenizer.eos]) for text in captions]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad)

    def training_state(self) -> dict[str, Any]:
        return self._optimization.state()

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self._optimization.load_state(state)

    # ---- captions ------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def caption(
        self, pictures: Float[Tensor, "b c h w"], generator: torch.Generator | None = None, **options: Any
    ) -> list[str]:
        """Describe pictures: by default with the likeliest word at each place (temperature 0).

        Args:
            pictures: In [0, 1], RGB or grey; other sizes than those of training are cropped to the middle and resized.
            generator: CPU generator, where a temperature is given.
            options: Fields of `CaptionOptions`.
        """
        chosen = CaptionOptions(**options).for_text(0.0, self.config.max_tokens)
        generator = generator or torch.Generator()
        captions: list[str] = []
        with evaluating(self):
            for part in pictures.split(_AT_ONCE):
                prefix = self.encoder(self.encoder.fit(part.to(self.device)))
                captions += self._draw(prefix, [[self.tokenizer.bos]] * len(part), chosen, generator)
        return captions

    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Sequence[int] | Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> list[str]:
        """Captions of no picture: what the model thinks a caption may say.

        Args:
            n: How many.
            condition: One begin of a caption each, to go on with.
            generator: CPU generator.
            options: Fields of `CaptionOptions`.
        """
        prompts = [""] * n if condition is None else [prompt for prompt in condition if isinstance(prompt, str)]
        if len(prompts) != n:
            raise StudioError(
                f"A captioner's condition is {n} begins of captions, one each; it has no classes.",
                fix="Give texts, or pictures to `studio caption`.",
            )
        tokenizer, room = self.tokenizer, self.config.max_tokens
        begins = [[tokenizer.bos, *tokenizer.encode(prompt)] for prompt in prompts]
        longest = max(map(len, begins), default=1) - 1
        if longest >= room:
            raise StudioError(f"A caption of this model has {room} tokens, a begin has {longest}.", fix="Shorten it.")
        chosen = CaptionOptions(**options).for_text(1.0, room - longest)
        generator = generator or torch.Generator()
        captions: list[str] = []
        with evaluating(self):
            for start in range(0, n, _AT_ONCE):
                part = begins[start : start + _AT_ONCE]
                own = rows_of(generator, start, len(part)) or generator
                captions += self._draw(self._blank_prefix(len(part)), part, chosen, own)
        return [prompt + text for prompt, text in zip(prompts, captions, strict=True)]

    def _blank_prefix(self, n: int) -> Float[Tensor, "n cells width"]:
        return self.blank.expand(n, self.encoder.num_cells, -1)

    def _draw(
        self, prefix: Tensor, begins: Sequence[Sequence[int]], options: TextOptions, generator: torch.Generator
    ) -> list[str]:
        tokenizer = self.tokenizer
        if options.beams > 1:
            return [tokenizer.decode(self._search(prefix[i : i + 1], begin, options)) for i, begin in enumerate(begins)]
        made: list[list[int]] = [[] for _ in begins]
        for tokens, new in continue_texts(
            _PictureReader(self.decoder, prefix),
            begins,
            options,
            generator,
            end=tokenizer.eos,
            banned=tokenizer.never_drawn,
            device=self.device,
        ):
            for row in new.nonzero()[:, 0].tolist():
                made[row].append(int(tokens[row]))
        return [tokenizer.decode(row) for row in made]

    def _search(self, prefix: Tensor, begin: Sequence[int], options: TextOptions) -> list[int]:
        return beam_search(
            _PictureReader(self.decoder, prefix),
            begin,
            beams=options.beams,
            max_tokens=options.max_tokens,
            end=self.tokenizer.eos,
            banned=self.tokenizer.never_drawn,
            device=self.device,
        )

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Sequence[str],
        condition: Float[Tensor, "b c h w"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " b"]:
        """ln p(caption | picture) in nats, exact, the caption's end included; without pictures, ln p(caption).

        Raises:
            StudioError: A caption is longer than the model's, or has characters that its vocabulary cannot express.
        """
        tokens = self._encode_captions(x)
        if tokens.shape[1] > self.config.max_tokens + 2:
            raise StudioError(
                f"A caption has {tokens.shape[1] - 2} tokens, this model's have {self.config.max_tokens} at most.",
                fix="Shorten it, or train with a larger --max-tokens.",
            )
        with evaluating(self):
            return torch.cat(list(self._scores(tokens.to(self.device), condition)))

    def _scores(self, tokens: Int[Tensor, "b t"], pictures: Tensor | None) -> Iterator[Float[Tensor, " m"]]:
        for start in range(0, len(tokens), _AT_ONCE):
            part = tokens[start : start + _AT_ONCE]
            if pictures is None:
                prefix = self._blank_prefix(len(part))
            else:
                prefix = self.encoder(self.encoder.fit(pictures[start : start + _AT_ONCE].to(self.device)))
            logits = self.decoder.head(self.decoder.hidden(part[:, :-1], prefix)).double()
            targets = part[:, 1:]
            log_p = logits.log_softmax(dim=-1).gather(2, targets[..., None])[..., 0]
            yield log_p.where(targets != self.tokenizer.pad, 0).sum(dim=1).cpu()


class _PictureReader:
    """Gives the decoder the picture's cells together with the first tokens."""

    def __init__(self, decoder: GPT, prefix: Float[Tensor, "n cells width"]) -> None:
        self._decoder = decoder
        self._prefix: Tensor | None = prefix
        self._state = decoder.new_state(len(prefix))

    def read(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n vocab"]:
        prefix, self._prefix = self._prefix, None
        return self._decoder.head(self._decoder.read(tokens, self._state, prefix)[:, -1])

    def select(self, rows: Int[Tensor, " m"]) -> None:
        self._state.select(rows)
