"""Measuring a trained generator: what it makes against held-out data, how fast, and how likely it finds that data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.datasets import Dataset, TextDataset
from studio.datasets.shapes import parse_caption
from studio.errors import StudioError
from studio.metrics.attributes import asked_and_seen, score_captions
from studio.metrics.bleu import corpus_bleu
from studio.metrics.classifier import Classifier, find_classifier
from studio.metrics.frechet import fid
from studio.metrics.generator_report import GeneratorReport
from studio.metrics.kernel_distance import kid, mmd2_from_kernels
from studio.metrics.manifold import manifold_scores
from studio.metrics.transport import sliced_wasserstein
from studio.plugin.base import Generator
from studio.plugin.batches import TokenRequest
from studio.training.sampling import draw_samples

_LIKELIHOOD_SAMPLES, _LIKELIHOOD_BATCH = 512, 64
_EXCERPT, _EXCERPTS, _EXCERPT_BATCH = 512, 64, 8
_TIMED_TEXTS = 4
_POINT_MMD = 2000
_COVERED = 0.5


@dataclass(frozen=True)
class AssessOptions:
    """What is measured, and on how much."""

    samples: int = 1000
    """Drawn samples, and at most as many of the data on the other side."""
    seed: int = 0
    batch: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    """Options of the generator's `sample`."""
    cache: Path = Path("~/.cache/neural-studio")
    """Where trained classifiers are kept."""
    caption_generator: Generator | None = None
    """A captioning plugin that reads samples back."""
    caption_name: str = ""


Tell = Callable[[str], None]


def assess(
    generator: Generator,
    train: Dataset,
    test: Dataset,
    options: AssessOptions,
    *,
    capabilities: Sequence[str],
    tell: Tell = lambda text: None,
) -> tuple[GeneratorReport, Tensor | list[str]]:
    """Measure a generator on its data.

    Args:
        generator: Trained, in evaluation mode.
        train: Its training data.
        test: Held out.
        options: Counts and seeds.
        capabilities: Of the plugin.
        tell: Told in a line what is being done.

    Returns:
        The report, and the drawn samples (captions: what was said) for pictures of them.

    Raises:
        StudioError: Data that there is no measure for.
    """
    if isinstance(train, TextDataset):
        assert isinstance(test, TextDataset)
        return _assess_text(generator, test, options, capabilities, tell)
    if "caption" in capabilities:
        return _assess_captions(generator, test, options, tell)
    if len(train.sample_shape) == 3:
        return _assess_pictures(generator, train, test, options, capabilities, tell)
    if len(train.sample_shape) == 1:
        return _assess_points(generator, train, test, options, capabilities, tell)
    raise StudioError(f"{train.name}: there is no measure for samples of shape {train.sample_shape}.")


# ---- pictures ----------------------------------------------------------------------------------------------------
def _assess_pictures(
    generator: Generator, train: Dataset, test: Dataset, options: AssessOptions, capabilities: Sequence[str], tell: Tell
) -> tuple[GeneratorReport, Tensor]:
    count = options.samples
    asked = _ask(generator, test, count)
    tell(f"drawing {count:,} samples")
    samples, asked, speed = _timed(generator, count, asked, options)
    classifier = find_classifier(train, test, cache=options.cache.expanduser() / "classifiers", tell=tell)
    real, where = _reference(train, test, count)
    figures: dict[str, float] = {"samples_per_second": speed}
    tell("comparing features")
    pictures = samples.clamp(0, 1)
    real_features, features = classifier.features(real), classifier.features(pictures)
    figures |= _feature_figures(real_features, features)
    others = train.batch(evenly(len(train), len(real)))[0] if where == "held out" else None
    floor = {} if others is None else _feature_figures(real_features, classifier.features(others))
    per_class: dict[str, float] = {}
    if classifier.task == "classes":
        covered, per_class = _classes(classifier, pictures, asked, train)
        figures |= covered
    if options.caption_generator is not None:
        figures["read_back"] = _read_back(options.caption_generator, pictures, asked, options)
    likelihood, kind = _likelihood(generator, test, capabilities)
    figures |= likelihood
    protocol: dict[str, Any] = {
        "samples": count,
        "seed": options.seed,
        "conditions": "none" if asked is None else "evenly over classes" if train.num_classes else "held-out captions",
        "reference": f"{len(real):,} pictures, {where}",
        "features": classifier.name,
        "classifier_accuracy": round(classifier.accuracy, 4),
        "sampling": dict(options.sampling),
    }
    if options.caption_generator is not None:
        protocol["read_back_by"] = options.caption_name
    protocol |= kind
    return GeneratorReport("pictures", figures, protocol, floor, per_class), pictures


def _ask(generator: Generator, test: Dataset, count: int) -> list[int] | list[str] | None:
    """Conditions as the data has them: every class as often, or the captions of held-out samples."""
    info = generator.data_info
    if info.num_classes:
        return [i * info.num_classes // count for i in range(count)]
    if info.has_captions:
        captions = test.captions
        return [captions[i % len(captions)] for i in range(count)]
    return None


def _timed(
    generator: Generator, count: int, asked: list[int] | list[str] | None, options: AssessOptions
) -> tuple[Tensor, list[int] | list[str] | None, float]:
    """Samples, the conditions that were obeyed, and samples a second without what is compiled or cached at first."""

    def draw(n: int, condition: Any, seed: int) -> Any:
        return draw_samples(generator, n, condition, seed=seed, batch=options.batch, options=options.sampling)

    first = None if asked is None else asked[:1]
    try:
        draw(1, first, options.seed)
    except StudioError:
        if asked is None:
            raise
        # A model without conditions, on data that has them.
        asked = None
        draw(1, None, options.seed)
    started = time.perf_counter()
    samples = draw(count, asked, options.seed)
    seconds = time.perf_counter() - started
    return samples, asked, count / max(seconds, 1e-9)


def _reference(train: Dataset, test: Dataset, count: int) -> tuple[Tensor, str]:
    """Pictures to compare with: held-out ones where there are half as many as samples, else training ones."""
    source, where = (test, "held out") if len(test) >= count // 2 else (train, "of the training data")
    return source.batch(evenly(len(source), count))[0], where


def evenly(length: int, count: int) -> list[int]:
    """At most `count` of the numbers below `length`, evenly spread."""
    count = min(length, count)
    return [i * length // count for i in range(count)]


def _feature_figures(real: Tensor, features: Tensor) -> dict[str, float]:
    return {
        "fid": fid(real, features),
        "kid": 1000 * kid(real, features).value,
        **manifold_scores(real, features)._asdict(),
    }


def _classes(
    classifier: Classifier, pictures: Tensor, asked: list[int] | list[str] | None, train: Dataset
) -> tuple[dict[str, float], dict[str, float]]:
    """Conditional: share recognised as asked; a class is covered where half of its samples are. Unconditional: a class
    is covered that has at least a tenth of its even share of the samples.
    """
    predicted = classifier.logits(pictures).argmax(dim=1)
    classes = train.num_classes or 0
    if asked is None:
        shares = torch.bincount(predicted, minlength=classes).double() / len(predicted)
        per_class = {train.class_names[i]: float(shares[i]) for i in range(classes)}
        return {"classes_covered": float((shares >= 0.1 / classes).sum())}, per_class
    wanted = torch.tensor([int(label) for label in asked])
    right = (predicted == wanted).double()
    per_class = {train.class_names[i]: float(right[wanted == i].mean()) for i in range(classes) if (wanted == i).any()}
    covered = sum(share >= _COVERED for share in per_class.values())
    return {"class_accuracy": float(right.mean()), "classes_covered": float(covered)}, per_class


def _read_back(
    captioner: Generator, pictures: Tensor, asked: list[int] | list[str] | None, options: AssessOptions
) -> float:
    if asked is None or not all(isinstance(text, str) for text in asked):
        raise StudioError("--caption-run: the samples were not asked for by captions.", fix="Leave it out.")
    shape = captioner.data_info.sample_shape
    if shape != tuple(pictures.shape[1:]):
        raise StudioError(
            f"--caption-run: reads pictures of shape {shape}, and the samples are {tuple(pictures.shape[1:])}.",
            fix="Train it on pictures of the same size.",
        )
    noise = torch.Generator().manual_seed(options.seed)
    seen = _captions(captioner, pictures, noise)
    return asked_and_seen([str(text) for text in asked], seen)


def _captions(captioner: Generator, pictures: Tensor, noise: torch.Generator) -> list[str]:
    with torch.no_grad():
        return [
            text
            for part in pictures.split(_LIKELIHOOD_BATCH)
            for text in captioner.caption(part.to(captioner.device), noise)  # type: ignore[operator]
        ]


# ---- points ------------------------------------------------------------------------------------------------------
def _assess_points(
    generator: Generator, train: Dataset, test: Dataset, options: AssessOptions, capabilities: Sequence[str], tell: Tell
) -> tuple[GeneratorReport, Tensor]:
    count = options.samples
    tell(f"drawing {count:,} samples")
    samples, asked, speed = _timed(generator, count, _ask(generator, test, count), options)
    real, where = _reference(train, test, count)
    figures = {"samples_per_second": speed, **_point_figures(real, samples)}
    likelihood, kind = _likelihood(generator, test, capabilities)
    figures |= likelihood
    others = train.batch(evenly(len(train), len(real)))[0]
    floor = _point_figures(real, others) if where == "held out" else {}
    protocol = {
        "samples": count,
        "seed": options.seed,
        "conditions": "none" if asked is None else "evenly over classes",
        "reference": f"{len(real):,} points, {where}",
        "sampling": dict(options.sampling),
        **kind,
    }
    return GeneratorReport("points", figures, protocol, floor), samples


def _point_figures(real: Tensor, samples: Tensor) -> dict[str, float]:
    return {
        "sliced_wasserstein": sliced_wasserstein(real, samples),
        "mmd": 1000 * _gaussian_mmd2(real[:_POINT_MMD], samples[:_POINT_MMD]),
        **manifold_scores(real, samples)._asdict(),
    }


def _gaussian_mmd2(x: Tensor, y: Tensor) -> float:
    """Unbiased MMD^2; the width is the median distance of the real points."""
    x, y = x.double(), y.double()
    width = torch.pdist(x).median()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / (2 * width**2))

    return float(mmd2_from_kernels(kernel(x, x), kernel(y, y), kernel(x, y)))


# ---- likelihood of samples ---------------------------------------------------------------------------------------
def _likelihood(
    generator: Generator, test: Dataset, capabilities: Sequence[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """Mean log-likelihood of held-out samples, and of which kind it is; nothing where the model has none."""
    if "likelihood" not in capabilities:
        return {}, {}
    rows = evenly(len(test), _LIKELIHOOD_SAMPLES)
    noise = torch.Generator().manual_seed(0)
    total, count, dimensions = 0.0, 0, math.prod(test.sample_shape)
    with torch.no_grad():
        for start in range(0, len(rows), _LIKELIHOOD_BATCH):
            x, cond = test.batch(rows[start : start + _LIKELIHOOD_BATCH])
            condition = cond.tolist() if isinstance(cond, Tensor) else cond
            try:
                nats = generator.log_likelihood(x.to(generator.device), condition, noise)  # type: ignore[operator]
            except StudioError as refusal:
                # A plugin may have likelihoods in some of its configurations only, as autoencoders have none.
                return {}, {"likelihood": f"none: {refusal.message}"}
            total, count = total + float(nats.double().sum()), count + len(x)
    mean = total / count
    figures = {"nats_per_sample": mean, "bits_per_dim": -mean / dimensions / math.log(2)}
    return figures, {"likelihood": _kind(generator)}


def _kind(generator: Generator) -> str:
    """Whether a plugin's likelihood is 'exact' or a 'bound'."""
    return str(getattr(generator, "likelihood_kind", "exact"))


# ---- text --------------------------------------------------------------------------------------------------------
def _assess_text(
    generator: Generator, test: TextDataset, options: AssessOptions, capabilities: Sequence[str], tell: Tell
) -> tuple[GeneratorReport, list[str]]:
    tell("writing samples")
    started = time.perf_counter()
    texts = draw_samples(generator, _TIMED_TEXTS, seed=options.seed, options=options.sampling)
    seconds = time.perf_counter() - started
    assert isinstance(texts, list)
    figures = {"characters_per_second": sum(map(len, texts)) / max(seconds, 1e-9)}
    protocol: dict[str, Any] = {"seed": options.seed, "sampling": dict(options.sampling)}
    if "likelihood" in capabilities:
        tell("reading held-out text")
        excerpts, before = _excerpts(test, options.samples)
        nats = 0.0
        with torch.no_grad():
            for start in range(0, len(excerpts), _EXCERPT_BATCH):
                part = slice(start, start + _EXCERPT_BATCH)
                given = None if before is None else before[part]
                nats -= float(generator.log_likelihood(excerpts[part], given).double().sum())  # type: ignore[operator]
        request = generator.batch_request(0)
        characters = sum(map(len, excerpts))
        figures["nats_per_character"] = nats / characters
        if isinstance(request, TokenRequest):
            tokens = sum(len(request.encode(text)) for text in excerpts)
            figures |= {"nats_per_token": nats / tokens, "perplexity": math.exp(min(nats / tokens, 700.0))}
        if callable(count_unknown := getattr(generator, "unknown_tokens", None)):
            # They cost what the model gives to a token that it never saw: the figure is of the text as it is.
            protocol["unknown_tokens"] = unknown = int(count_unknown(excerpts))
            if unknown:
                tell(f"{unknown:,} tokens of the held-out text are unknown to the model, and count as such")
        what = "lines" if test.lines else f"excerpts of {_EXCERPT} characters, each after the text before it"
        protocol |= {"held_out": f"{len(excerpts)} {what} ({characters:,} characters)", "likelihood": _kind(generator)}
    return GeneratorReport("text", figures, protocol), texts


def _excerpts(test: TextDataset, most: int) -> tuple[list[str], list[str] | None]:
    """Held-out texts, and for excerpts of one document what stands before each."""
    if test.lines:
        return [test.texts[i] for i in evenly(len(test.texts), most)], None
    document = test.texts[0]
    pieces = max(len(document) // _EXCERPT, 1)
    places = [i * _EXCERPT for i in range(pieces)]
    # The first has nothing before it, which is not what the model was trained on.
    chosen = [places[1:][i] for i in evenly(pieces - 1, min(_EXCERPTS, most))] if pieces > 1 else [0]
    excerpts = [document[place : place + _EXCERPT] for place in chosen]
    return excerpts, [document[max(place - _EXCERPT, 0) : place] for place in chosen]


# ---- captions ----------------------------------------------------------------------------------------------------
def _assess_captions(
    generator: Generator, test: Dataset, options: AssessOptions, tell: Tell
) -> tuple[GeneratorReport, list[str]]:
    rows = evenly(len(test), options.samples)
    x, truth = test.batch(rows)
    if not isinstance(truth, list):
        raise StudioError(f"{test.name}: its pictures have no captions to compare with.")
    tell(f"describing {len(rows):,} held-out pictures")
    noise = torch.Generator().manual_seed(options.seed)
    started = time.perf_counter()
    said = _captions(generator, x, noise)
    seconds = time.perf_counter() - started
    figures: dict[str, float] = {"samples_per_second": len(said) / max(seconds, 1e-9)}
    if all(parse_caption(text).objects for text in truth):
        figures |= asdict(score_captions(said, truth))
    figures["bleu"] = corpus_bleu([text.lower().split() for text in said], [[text.lower().split()] for text in truth])
    protocol = {"held_out": f"{len(said):,} pictures", "seed": options.seed}
    return GeneratorReport("captions", figures, protocol), said
