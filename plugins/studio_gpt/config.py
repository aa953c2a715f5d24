"""Configuration of the language models and the captioner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from studio.plugin import PluginConfig
from studio.plugin.ranges import Count, Decay, LearningRate, NonNegativeNumber, PositiveCount, Range, Share


@dataclass
class LanguageConfig(PluginConfig):
    """What training a language model needs, whatever it is trained on."""

    # ---- optimisation
    batch: PositiveCount = 32
    """Texts a step."""
    lr: LearningRate = 1e-3
    """Learning rate after the warm-up."""
    lr_final: Share = 0.1
    """Learning rate at the end, as a share of lr; it falls along half a cosine."""
    warmup: Share = 0.02
    """Share of the training during which the learning rate rises."""
    beta2: Decay = 0.99
    """Decay of AdamW's mean of squared gradients; that of gradients is 0.9."""
    weight_decay: NonNegativeNumber = 0.1
    """AdamW's decay, of matrices only."""
    clip: NonNegativeNumber = 1.0
    """Largest norm of the gradient; longer ones are scaled down. 0: no limit."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Matrix products of the training: bf16 where the device has units for it, else fp32. Sampling is always fp32."""


@dataclass
class GPTConfig(LanguageConfig):
    """Language models of text: GPT, an Elman RNN, or causal convolutions."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "rnn": {"model": "rnn"},
        "nanogpt-cpu": {
            "tokenizer": "character",
            "vocab_size": 69,
            "width": 128,
            "layers": 4,
            "heads": 4,
            "context": 64,
            "tied": True,
            "dropout": 0.0,
            "batch": 12,
            "lr": 2e-3,
            "steps": 2_000,
            "warmup": 0.05,
        },
        "bytes": {
            "tokenizer": "byte",
            "vocab_size": 260,
            "width": 192,
            "layers": 4,
            "heads": 6,
            "context": 192,
            "dropout": 0.0,
            "steps": 5_000,
        },
        "bpe": {
            "tokenizer": "bpe",
            "vocab_size": 2048,
            "width": 256,
            "layers": 6,
            "heads": 8,
            "context": 128,
            "tied": True,
            "steps": 5_000,
        },
        "wavenet": {
            "model": "wavenet",
            "tokenizer": "character",
            "vocab_size": 69,
            "width": 128,
            "layers": 7,
            "context": 128,
            "dropout": 0.0,
            "batch": 16,
            "steps": 3_000,
        },
    }
    CHECK: ClassVar[Mapping[str, Any]] = {
        "tokenizer": "character",
        "vocab_size": 64,
        "width": 32,
        "layers": 2,
        "heads": 2,
        "context": 32,
        "dropout": 0.0,
        "batch": 8,
    }

    steps: int = 10_000
    """Training steps."""

    # ---- text
    tokenizer: Literal["word", "character", "byte", "bpe"] = "word"
    """What a token is."""
    vocab_size: PositiveCount = 60_198
    """Most tokens of the vocabulary, four special ones included; words beyond it become UNK."""

    # ---- model
    model: Literal["gpt", "rnn", "wavenet"] = "gpt"
    """Transformer, Elman RNN, or dilated causal convolutions."""
    width: PositiveCount = 384
    """Length of the vectors inside."""
    layers: PositiveCount | None = None
    """Blocks one after the other; default: 6 for gpt, 1 for rnn, 8 for wavenet."""
    heads: PositiveCount = 6
    """Attention heads of each block; width must be a multiple."""
    context: PositiveCount = 256
    """Tokens of a training window; gpt and wavenet see no further back than that."""
    dropout: Annotated[float, Range(0, 0.99)] = 0.1
    """Share of activations set to zero in training."""
    tied: bool = False
    """Let gpt's head share the embedding's matrix."""
    start_share: Share = 0.1
    """Share of the windows of one long document whose first token is hidden, to learn how a text begins."""


@dataclass
class CaptionConfig(LanguageConfig):
    """Captions of pictures: a convolutional encoder, and a GPT that reads its vectors as a prefix."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "shapes": {"grid": 4, "shift": 2, "steps": 4_000},
        "large": {"encoder_width": 64, "width": 256, "layers": 6, "heads": 8, "steps": 20_000},
    }
    CHECK: ClassVar[Mapping[str, Any]] = {
        "grid": 4,
        "encoder_width": 8,
        "tokenizer": "character",
        "vocab_size": 64,
        "max_tokens": 40,
        "width": 32,
        "layers": 1,
        "heads": 2,
        "batch": 8,
    }

    steps: int = 8_000
    """Training steps."""
    batch: PositiveCount = 64
    """Pictures a step."""
    lr: LearningRate = 2e-3
    """Learning rate after the warm-up."""
    weight_decay: NonNegativeNumber = 0.05
    """AdamW's decay, of matrices and convolutions only."""

    # ---- picture
    grid: PositiveCount = 8
    """The encoder's last map has this many cells along each side; each becomes one vector of the prefix."""
    encoder_width: PositiveCount = 32
    """Channels of the encoder's first stage; they double with the next two halvings of the size."""
    shift: Count = 3
    """Pictures are moved by up to this many pixels in training."""

    # ---- text
    tokenizer: Literal["word", "character", "byte", "bpe"] = "bpe"
    """What a token is."""
    vocab_size: PositiveCount = 2048
    """Most tokens of the vocabulary, four special ones included; words beyond it become UNK."""
    max_tokens: PositiveCount = 64
    """Most tokens of a caption; longer ones are cut in training."""
    width: PositiveCount = 128
    """Length of the vectors inside the GPT."""
    layers: PositiveCount = 4
    """Blocks of the GPT."""
    heads: PositiveCount = 4
    """Attention heads of each block; width must be a multiple."""
    dropout: Annotated[float, Range(0, 0.99)] = 0.0
    """Share of activations set to zero in training."""
    no_picture: Share = 0.1
    """Share of the training pairs whose picture is replaced by a learned blank, to learn the language without one."""
