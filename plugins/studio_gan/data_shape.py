"""Whether a configuration suits a data set, checked before anything is built."""

from __future__ import annotations

from studio.plugin import DataInfo
from studio.plugin.needs import DataNeeds
from studio_gan.config import GanConfig

NO_DATA = DataInfo()
"""What `studio info` builds a model for when it is not told about data."""

_FLAT_SIDE = 32
_SIDES = (8, 16, 32, 64, 128)


def network_side(info: DataInfo) -> int:
    """Side of a convolutional network for these pictures: the power of two that holds them."""
    return next(side for side in _SIDES if side >= max(info.sample_shape[1:]))


def nominal(config: GanConfig) -> DataInfo:
    """The data that a configuration is meant for: points, MNIST, or colour pictures of 64x64."""
    if config.family == "points":
        return NO_DATA
    if config.family == "conditional":
        return DataInfo((1, 28, 28), 10, tuple(map(str, range(10))))
    return DataInfo((3, 64, 64))


def check_data(config: GanConfig, info: DataInfo) -> None:
    """Raise where a model of this configuration cannot learn this data.

    Raises:
        StudioError: Points for a model of pictures or the other way round, pictures that are too large, or no labels
            where they are needed; names the preset to use.
    """
    if config.family == "points":
        needs = DataNeeds("points")
    elif config.family == "conditional":
        needs = DataNeeds("pictures", largest_side=_FLAT_SIDE, classes=True)
    else:
        needs = DataNeeds("pictures", largest_side=_SIDES[-1])
    needs.check(info, "This preset of 'gan'", _advice(info))


def _advice(info: DataInfo) -> str:
    shape = info.sample_shape
    if len(shape) == 1:
        return "Use --preset gan-2d."
    if len(shape) != 3:
        return "Text is what the plugin 'gpt' learns." if not shape else "Give points (d,) or pictures (c, h, w)."
    side = max(shape[1:])
    if side <= _FLAT_SIDE and info.num_classes:
        return "Use --preset cgan-mnist."
    return "Use --preset dcgan." if side <= _SIDES[-1] else "Make the pictures smaller (64x64 for --preset dcgan)."
