"""Whether a configuration suits a data set, checked before anything is built."""

from __future__ import annotations

from studio.errors import StudioError
from studio.plugin import DataInfo
from studio.plugin.needs import DataNeeds
from studio_vae.config import VaeConfig
from studio_vae.image_vae import side_of

NO_DATA = DataInfo()
"""What `studio info` builds a model for when it is not told about data."""


def makes_pictures(config: VaeConfig) -> bool:
    """Whether a configuration describes a model of pictures rather than of points."""
    return config.family == "convolutional" or (config.family == "autoencoder" and config.decoder_output == "sigmoid")


def nominal(config: VaeConfig) -> DataInfo:
    """The data that a configuration is meant for: points, MNIST, or the largest colour pictures that it takes."""
    if not makes_pictures(config):
        return NO_DATA
    if config.family == "convolutional" and side_of(config.widths) != 32:
        return DataInfo((3, side_of(config.widths), side_of(config.widths)), 10 if config.conditional else None)
    return DataInfo((1, 28, 28), 10, tuple(map(str, range(10))))


def check_data(config: VaeConfig, info: DataInfo) -> None:
    """Raise where a model of this configuration cannot learn this data.

    Raises:
        StudioError: Points for a model of pictures or the other way round, pictures that are too large, or no labels
            where they are needed; names the preset to use.
    """
    if config.conditional and config.family != "convolutional":
        raise StudioError(
            "conditional: only the convolutional family of 'vae' takes classes.", fix="Use --preset cvae-mnist."
        )
    needs = DataNeeds(
        "pictures" if makes_pictures(config) else "points",
        largest_side=side_of(config.widths) if config.family == "convolutional" else None,
        classes=config.conditional,
    )
    needs.check(info, "This preset of 'vae'", _advice(info))


def _advice(info: DataInfo) -> str:
    shape = info.sample_shape
    if len(shape) == 1:
        return "Use --preset vae-2d or ae-2d."
    if len(shape) != 3:
        return "Text is what the plugin 'gpt' learns." if not shape else "Give points (d,) or pictures (c, h, w)."
    side = max(shape[1:])
    if side <= 32:
        return f"Use --preset {'cvae-mnist' if info.num_classes else 'beta-vae'}."
    return "Use --preset conv64." if side <= 64 else "Make the pictures smaller (64x64 for --preset conv64)."
