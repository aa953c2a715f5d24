"""Language models, and captions of pictures."""

from __future__ import annotations

from studio.plugin.spec import PluginSpec

__all__ = ["CAPTION", "GPT"]

GPT = PluginSpec(
    name="gpt",
    kind="generator",
    summary="Language models of text: GPT, recurrent or convolutional, on words, characters, bytes or byte pairs.",
    target="studio_gpt.text_plugin:TextGenerator",
    config="studio_gpt.config:GPTConfig",
    capabilities=("sample", "likelihood", "stream", "attention"),
    devices=("cpu", "cuda"),
    presets={
        "default": "GPT on words: 6 layers, 384 wide, context 256 (57 M parameters at 60,198 words)",
        "rnn": "Elman RNN on words, 384 wide",
        "nanogpt-cpu": "small GPT on characters: 4 layers, 128 wide, context 64; about a minute on two CPU cores",
        "bytes": "GPT on bytes: any language and any text, 4 layers, 192 wide",
        "bpe": "GPT on 2,048 byte pairs learned from the text: 6 layers, 256 wide",
        "wavenet": "dilated causal convolutions on characters: 7 layers, 128 tokens back",
    },
)

CAPTION = PluginSpec(
    name="caption",
    kind="generator",
    summary="Captions of pictures: a convolutional encoder and a GPT that reads its vectors.",
    target="studio_gpt.caption_plugin:Captioner",
    config="studio_gpt.config:CaptionConfig",
    capabilities=("sample", "caption"),
    devices=("cpu", "cuda"),
    presets={
        "default": "4 layers, 128 wide: up to 20 minutes on two CPU cores for 64x64 pictures",
        "shapes": "for shapes:32: a smaller map of the picture; 10 to 20 minutes on one CPU core",
        "large": "6 layers, 256 wide, for longer captions and a GPU",
    },
)
