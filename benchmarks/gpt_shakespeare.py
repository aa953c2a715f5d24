"""The small GPT on Shakespeare's characters: held-out loss, training speed beside nanoGPT's, sampling with a cache.

    python benchmarks/gpt_shakespeare.py                 # everything, about six minutes on two cores
    python benchmarks/gpt_shakespeare.py --only speed --rounds 20

Writes results/gpt_shakespeare.json.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import DATA, RESULTS, Report, Timing, clock_and_processor, measure
from torch import Tensor, nn

from studio.datasets import TextDataset, load_dataset
from studio.devices import apply_threads
from studio.plugin import DataInfo, TrainingContext
from studio.training.observers import ProgressLine
from studio.training.sources import DatasetSource
from studio.training.start import TrainOptions, train
from studio_gpt.config import GPTConfig
from studio_gpt.decoding import TextOptions, next_tokens
from studio_gpt.gpt import GPT
from studio_gpt.text_plugin import TextGenerator
from studio_gpt.tokenizer import WordTokenizer
from studio_gpt.vocabulary import Vocabulary
from studio_gpt.windows import Reader

PRESET = "nanogpt-cpu"
LAYERS, HEADS, WIDTH, CONTEXT, BATCH, VOCABULARY = 4, 4, 128, 64, 12, 65
PUBLISHED_LOSS = 1.88
PROTOCOL = (
    "tinyshakespeare by characters, the last 10% held out, as in nanoGPT (github.com/karpathy/nanoGPT), whose README "
    "reports a validation loss of 1.88 for its CPU configuration: 4 layers, 4 heads, 128 wide, context 64, batch 12, "
    "2,000 steps, no dropout. Loss: mean cross-entropy in nats a character over all positions of windows of 64 that "
    "tile the held-out part, after the last step (nanoGPT: the same mean over random windows); 'by windows' is the "
    "plugin's own log-likelihood, which gives each character at least 32 before it. Training speed: characters that go "
    "through a step a second, data, clipping, schedule and reading the loss included; the peer is nanoGPT's step "
    "written anew from its published configuration in eager PyTorch (float32, AdamW without the fused kernel, as it "
    "runs on a CPU); the variants take turns, {steps} steps each, {rounds} rounds, median of the rounds. Sampling: the "
    "default preset (57 M parameters, 60,198 words, random weights: the time does not depend on them), one text; time "
    "of one token, its draw included, behind 255 others (median); without a cache the window is computed anew, with "
    "logits of its last position only. Times by the clock, and ratios by processor time besides, which other programs "
    "disturb less; {threads} thread(s); seed {seed}."
)


class PeerBlock(nn.Module):
    """nanoGPT's block: pre-norm without biases, one matrix for Q, K and V, fused attention, exact GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (
            part.view(b, t, HEADS, c // HEADS).transpose(1, 2) for part in self.qkv(self.norm_1(x)).split(c, dim=2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).contiguous().view(b, t, c))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class Peer(nn.Module):
    """nanoGPT's model in its CPU configuration, with its training step."""

    def __init__(self, tokens: Tensor, steps: int, seed: int) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(PeerBlock() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if residual else 0.02)
        groups = [
            {"params": [p for p in self.parameters() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in self.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
        # As its data files hold them.
        self.data = tokens.to(torch.uint16).numpy()
        self.total = steps
        self.done = 0
        self.places = torch.Generator().manual_seed(seed)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        logits = self(tokens)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1), ignore_index=-1)

    def step(self) -> float:
        if self.done < 100:
            rate = 1e-3 * (self.done + 1) / 101
        else:
            share = (self.done - 100) / (self.total - 100)
            rate = 1e-4 + 0.5 * (1 + math.cos(math.pi * min(share, 1.0))) * 9e-4
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(self.data) - CONTEXT, (BATCH,), generator=self.places).tolist()
        windows = [torch.from_numpy(self.data[s : s + CONTEXT + 1].astype("int64")) for s in starts]
        x, y = torch.stack([w[:-1] for w in windows]), torch.stack([w[1:] for w in windows])
        loss = self.loss(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("loss", "speed", "sampling"), nargs="+", help="default: all three")
    parser.add_argument("--data", type=Path, default=DATA / "tinyshakespeare" / "input.txt")
    parser.add_argument("--steps", type=int, default=2000, help="of the training for the loss")
    parser.add_argument("--lr", type=float, default=None, help="of our training; default: the preset's")
    parser.add_argument("--rounds", type=int, default=15, help="of the speed comparison")
    parser.add_argument("--round-steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    apply_threads()
    report = Report(
        "gpt_shakespeare",
        title="GPT on tinyshakespeare",
        protocol=PROTOCOL.format(
            steps=arguments.round_steps, rounds=arguments.rounds, seed=arguments.seed, threads=torch.get_num_threads()
        ),
        settings=vars(arguments),
        folder=arguments.results,
    )
    chosen = arguments.only or ("loss", "speed", "sampling")
    torch.manual_seed(arguments.seed)
    if "loss" in chosen:
        _measure_loss(arguments, report)
    if "speed" in chosen:
        _measure_speed(arguments, report)
    if "sampling" in chosen:
        _measure_sampling(report)
    report.print()


# ---- held-out loss ---------------------------------------------------------------------------------------------------
def _measure_loss(arguments: argparse.Namespace, report: Report) -> None:
    held_out = _text(arguments.data, "test")
    with tempfile.TemporaryDirectory() as scratch:
        options = TrainOptions(output=Path(scratch), seed=arguments.seed, device="cpu", tensorboard=False)
        changes = {"steps": arguments.steps, **({} if arguments.lr is None else {"lr": arguments.lr})}
        clock, used = time.perf_counter(), time.process_time()
        run = train("gpt", arguments.data, preset=PRESET, options=options, observers=[ProgressLine()], **changes)
        clock, used = time.perf_counter() - clock, time.process_time() - used
    model = run.plugin
    assert isinstance(model, TextGenerator)
    tokens = torch.tensor(model.tokenizer.encode(held_out))
    by_windows = -float(model.log_likelihood([held_out])[0]) / len(held_out)
    report.add(
        what="held-out loss, ours",
        nats_a_character=_tiled_loss(model.network, tokens),
        nats_by_windows=by_windows,
        published=PUBLISHED_LOSS,
        learning_rate=model.config.lr,
        characters=len(held_out),
        parameters=sum(p.numel() for p in model.network.parameters()),
        steps=run.step,
        seconds=clock,
        cpu_seconds=used,
        sample=model.sample(1, ["ROMEO:"], torch.Generator().manual_seed(arguments.seed), max_tokens=400)[0],
    )
    peer = Peer(_characters(_text(arguments.data, "train")), arguments.steps, arguments.seed)

    def steps() -> None:
        for _ in range(arguments.steps):
            peer.step()

    clock, used = clock_and_processor(steps)
    report.add(
        what="held-out loss, peer",
        nats_a_character=_tiled_loss(peer, _characters(held_out)),
        published=PUBLISHED_LOSS,
        characters=len(held_out),
        parameters=sum(p.numel() for p in peer.parameters()),
        steps=arguments.steps,
        seconds=clock,
        cpu_seconds=used,
    )


@torch.no_grad()
def _tiled_loss(network: nn.Module, tokens: Tensor) -> float:
    """Mean nats a token over all positions of the windows that lie side by side in the tokens."""
    windows = (len(tokens) - 1) // CONTEXT
    inputs = tokens[: windows * CONTEXT].view(windows, CONTEXT)
    targets = tokens[1 : windows * CONTEXT + 1].view(windows, CONTEXT)
    total = 0.0
    for x, y in zip(inputs.split(64), targets.split(64), strict=True):
        total += float(F.cross_entropy(network(x).flatten(0, 1), y.flatten(), reduction="sum"))
    return total / (windows * CONTEXT)


def _text(path: Path, split: str) -> str:
    dataset = load_dataset(path, split=split)  # type: ignore[arg-type]
    assert isinstance(dataset, TextDataset)
    return dataset.texts[0]


def _characters(text: str) -> Tensor:
    """Ids by code point among the characters of English prose; Shakespeare has the same 65 in both parts."""
    order = "\n !$&',-.3:;?" + "".join(map(chr, range(65, 91))) + "".join(map(chr, range(97, 123)))
    ids = {character: i for i, character in enumerate(order)}
    return torch.tensor([ids[character] for character in text])


# ---- training speed --------------------------------------------------------------------------------------------------
def _measure_speed(arguments: argparse.Namespace, report: Report) -> None:
    total = 3 + arguments.rounds * arguments.round_steps
    variants: dict[str, Callable[[], object]] = {
        "nanoGPT's step": Peer(_characters(_text(arguments.data, "train")), total, arguments.seed).step,
        "ours, float32": _our_step(arguments, total, "fp32"),
        "ours, preset (bf16 where the CPU has it)": _our_step(arguments, total, "bf16"),
    }
    for step in variants.values():
        for _ in range(3):
            step()
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(arguments.rounds):
        for name, step in variants.items():

            def steps(step: Callable[[], object] = step) -> None:
                for _ in range(arguments.round_steps):
                    step()

            spent[name].append(clock_and_processor(steps))
    characters = arguments.round_steps * BATCH * CONTEXT
    peer = spent["nanoGPT's step"]
    for name, times in spent.items():
        rates = [characters / clock for clock, _ in times]
        by_clock, by_processor = (
            statistics.median(theirs[kind] / ours[kind] for ours, theirs in zip(times, peer, strict=True))
            for kind in (0, 1)
        )
        report.add(
            what=f"training, {name}",
            characters_a_second=statistics.median(rates),
            ratio=by_clock,
            ratio_by_processor_time=by_processor,
            slowest=min(rates),
            fastest=max(rates),
        )


def _our_step(arguments: argparse.Namespace, total: int, precision: str) -> Callable[[], object]:
    """A step as the engine's loop takes it: request, batch, training step, and the loss read as a number."""
    dataset = load_dataset(arguments.data)
    settings = GPTConfig.from_dict({**GPTConfig.PRESETS[PRESET], "precision": precision})
    model = TextGenerator(settings, DataInfo(()))
    model.initialize(dataset, torch.Generator())
    model.setup_training(TrainingContext(total, seed=arguments.seed))
    model.train()
    source = DatasetSource(dataset, arguments.seed, torch.device("cpu"))
    done = 0

    def step() -> float:
        nonlocal done
        figures = model.training_step(source.next(model.batch_request(done)), done)  # type: ignore[arg-type]
        done += 1
        return float(figures["loss"])

    return step


# ---- sampling --------------------------------------------------------------------------------------------------------
@torch.no_grad()
def _measure_sampling(report: Report) -> None:
    model = TextGenerator(GPTConfig.preset("default"), DataInfo(()))
    model.vocabulary = Vocabulary(WordTokenizer([f"word{i}" for i in range(model.config.vocab_size - 4)]))
    model.eval()
    network, options = model.network, TextOptions()
    assert isinstance(network, GPT)
    context = network.context
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(model.config.vocab_size, (1, context), generator=generator)
    counts = torch.zeros(1, model.config.vocab_size)

    def draw(logits: Tensor) -> Tensor:
        return next_tokens(logits, counts, options, generator)

    def whole(reader: Reader) -> None:
        for token in text.split(1, dim=1):
            draw(reader.read(token))

    def last(cached: bool) -> tuple[Timing, Timing]:
        """Times of the token at the end of a full context, by the clock and the processor; reading the others does not
        count."""
        spent = []
        for _ in range(12):
            reader = Reader(network, 1, cached=cached)
            reader.read(text[:, :-1])
            spent.append(clock_and_processor(lambda reader=reader: draw(reader.read(text[:, -1:]))))  # type: ignore[misc]
        return Timing(tuple(clock for clock, _ in spent[2:])), Timing(tuple(used for _, used in spent[2:]))

    (fast, fast_used), (slow, slow_used) = last(cached=True), last(cached=False)
    report.add(
        what="sampling a token at context 256, cached",
        ms_a_token=1000 * fast.median,
        ratio=slow.median / fast.median,
        ratio_by_processor_time=slow_used.median / fast_used.median,
        timing=fast.to_dict(),
    )
    report.add(what="sampling a token at context 256, uncached", ms_a_token=1000 * slow.median, timing=slow.to_dict())
    fast = measure(lambda: whole(Reader(network, 1)), repetitions=3)
    slow = measure(lambda: whole(Reader(network, 1, cached=False)), repetitions=1, warmup=0)
    report.add(
        what="sampling a text of 256 tokens from nothing, cached",
        ms_a_token=1000 * fast.median / context,
        ratio=slow.median / fast.median,
    )
    report.add(what="sampling a text of 256 tokens from nothing, uncached", ms_a_token=1000 * slow.median / context)


if __name__ == "__main__":
    main()
