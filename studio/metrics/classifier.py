"""A small picture classifier that the studio trains once on a data set: its features stand behind FID and its kin."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from studio.datasets import Dataset
from studio.files import atomic_path

FEATURES = 64
_RECIPE = 2
"""Part of the cache key: another network or training is another classifier."""
_LARGEST_SIDE = 64
_BATCH, _EPOCHS, _MOST_STEPS, _FEWEST_STEPS = 128, 4, 1000, 250
_RATE = 3e-3
_MOST_WORDS = 64
_ROTATIONS = 4


class ConvNet(nn.Module):
    """Stages of one, two and two 3x3 convolutions, a 2x2 grid of means, `FEATURES` features, logits."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = channels
        for stage, depth in ((24, 1), (48, 2), (96, 2)):
            for _ in range(depth):
                layers += [nn.Conv2d(width, stage, 3, padding=1, bias=False), nn.BatchNorm2d(stage), nn.ReLU()]
                width = stage
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.trunk = nn.Sequential(*layers)
        # A coarse grid instead of the plain mean: where things are counts for digits and scenes.
        self.squeeze = nn.Linear(width * 4, FEATURES)
        self.head = nn.Linear(FEATURES, outputs)
        # Brings the mean square of the features of the training data to 1: distances then mean the same on all data.
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        grid = F.adaptive_avg_pool2d(self.trunk((x - 0.5) / 0.5), 2)
        return F.relu(self.squeeze(grid.flatten(1)))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.head(self.features(x))


@dataclass(eq=False)
class Classifier:
    """A trained network, what it was trained to tell, and how well it does on held-out samples."""

    network: ConvNet
    task: str
    """'classes', 'words' (which words of the captions hold) or 'rotations' (by how many quarter turns)."""
    accuracy: float
    """On held-out samples, in [0, 1]; for words the mean over words and samples."""
    outputs: int
    held_out: int
    """Samples that the accuracy was measured on."""

    @property
    def name(self) -> str:
        """For reports: what the features are."""
        what = {"classes": "classes", "words": "words of its captions", "rotations": "rotations"}[self.task]
        return f"the studio's classifier of {self.outputs} {what}, {FEATURES} features"

    @torch.no_grad()
    def features(self, pictures: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Features of pictures in [0, 1]; over the training data their mean square is 1."""
        scale = self.network.scale
        return torch.cat([scale * self.network.features(_reduce(part)) for part in pictures.split(256)])

    @torch.no_grad()
    def logits(self, pictures: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        return torch.cat([self.network(_reduce(part)) for part in pictures.split(256)])


def find_classifier(
    train: Dataset, test: Dataset, *, cache: Path, tell: Callable[[str], None] = lambda text: None
) -> Classifier:
    """The classifier of a data set: from the cache folder, or trained now (about a minute) and kept there.

    It learns the data's classes; without these, the words of its captions; without these, to tell by how many quarter
    turns a picture was rotated (Gidaris et al. 2018).

    Args:
        train: Pictures.
        test: Held-out ones, for the accuracy.
        cache: Folder of trained classifiers; files in it are named by the content of the data.
        tell: Told when training starts.
    """
    file = cache / f"{_fingerprint(train)}.safetensors"
    known = _load(file, train)
    if known is not None:
        return known
    tell(f"training a small classifier of {train.name}, once, for its features")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = _train(train, test)
    _save(file, classifier)
    return classifier


def _train(train: Dataset, test: Dataset) -> Classifier:
    task, outputs, target_of = _task(train)
    network = ConvNet(train.sample_shape[0], outputs)
    steps = min(max(_EPOCHS * len(train) // _BATCH, _FEWEST_STEPS), _MOST_STEPS)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    order: list[int] = []
    for _ in range(steps):
        if len(order) < _BATCH:
            order += torch.randperm(len(train)).tolist()
        x, cond = train.batch(order[:_BATCH])
        del order[:_BATCH]
        x, target = target_of(_shift(_reduce(x)), cond)
        logits = network(x)
        loss = (
            F.binary_cross_entropy_with_logits(logits, target) if task == "words" else F.cross_entropy(logits, target)
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        x, _ = train.batch([i * len(train) // 1024 for i in range(1024)] if len(train) > 1024 else range(len(train)))
        network.scale.copy_(network.features(_reduce(x)).square().mean().clamp(min=1e-12).rsqrt())
    right: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(test), 256):
            x, cond = test.batch(range(start, min(start + 256, len(test))))
            x, target = target_of(_reduce(x), cond)
            logits = network(x)
            right.append(
                ((logits > 0) == (target > 0.5)).double().mean(1) if task == "words" else logits.argmax(1) == target
            )
    accuracy = float(torch.cat(right).double().mean())
    return Classifier(network, task, accuracy, outputs, len(test))


def _task(train: Dataset) -> tuple[str, int, Callable[[Tensor, Any], tuple[Tensor, Tensor]]]:
    if train.num_classes:
        return "classes", train.num_classes, lambda x, labels: (x, labels)
    words = _telling_words(train)
    if words:
        numbers = {word: i for i, word in enumerate(words)}

        def word_target(x: Tensor, captions: list[str]) -> tuple[Tensor, Tensor]:
            target = torch.zeros(len(captions), len(words))
            for row, text in zip(target, captions, strict=True):
                row[[numbers[word] for word in set(text.lower().split()) if word in numbers]] = 1.0
            return x, target

        return "words", len(words), word_target

    def turned(x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        target = torch.arange(len(x)) % _ROTATIONS
        side = min(x.shape[2:])
        square = x[..., :side, :side]
        return torch.stack([square[i].rot90(int(target[i]), (1, 2)) for i in range(len(x))]), target

    return "rotations", _ROTATIONS, turned


def _telling_words(train: Dataset) -> list[str]:
    """The most frequent words that some captions have and others have not."""
    counts = Counter(word for text in train.captions for word in set(text.lower().split()))
    n = len(train.captions)
    return sorted(word for word, count in counts.most_common(_MOST_WORDS) if 0.01 * n <= count <= 0.9 * n)


def _reduce(x: Tensor) -> Tensor:
    side = max(x.shape[2:])
    if side <= _LARGEST_SIDE:
        return x
    size = [max(round(length * _LARGEST_SIDE / side), 1) for length in x.shape[2:]]
    return F.interpolate(x, size, mode="bilinear", antialias=True)


def _shift(x: Tensor) -> Tensor:
    """Each picture moved by up to a sixteenth of its size, its border repeated."""
    pad = max(max(x.shape[2:]) // 16, 1)
    wide = F.pad(x, (pad, pad, pad, pad), mode="replicate")
    height, width = x.shape[2:]
    places = torch.randint(0, 2 * pad + 1, (len(x), 2)).tolist()
    return torch.stack([wide[i, :, top : top + height, left : left + width] for i, (top, left) in enumerate(places)])


def _fingerprint(train: Dataset) -> str:
    digest = hashlib.sha256(repr((_RECIPE, train.sample_shape, len(train), train.class_names)).encode())
    rows = sorted({i * len(train) // 256 for i in range(256)})
    x, cond = train.batch(rows)
    digest.update(x.mul(255).round().to(torch.uint8).numpy().tobytes())
    digest.update(repr(cond.tolist() if isinstance(cond, Tensor) else cond).encode())
    return digest.hexdigest()[:24]


def _save(file: Path, classifier: Classifier) -> None:
    from safetensors.torch import save_file

    facts = {
        "task": classifier.task,
        "accuracy": classifier.accuracy,
        "outputs": classifier.outputs,
        "held_out": classifier.held_out,
    }
    with atomic_path(file) as temporary:
        state = {name: tensor.contiguous() for name, tensor in classifier.network.state_dict().items()}
        save_file(state, os.fspath(temporary), metadata={"classifier": json.dumps(facts)})


def _load(file: Path, train: Dataset) -> Classifier | None:
    """None where there is none, or a damaged one, which is trained anew."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(file), framework="pt") as opened:
            facts = json.loads(opened.metadata()["classifier"])
            network = ConvNet(train.sample_shape[0], int(facts["outputs"]))
            network.load_state_dict({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
            network.eval()
            return Classifier(
                network, str(facts["task"]), float(facts["accuracy"]), network.head.out_features, int(facts["held_out"])
            )
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError):
        return None
