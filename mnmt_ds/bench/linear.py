"""Linear layers in fp32 on a CPU: torch's products, the C++ kernels' and oneDNN's, and what a training step gains.

All take turns, round after round; times are processor time of one process, so that a shared machine counts little, and
the best of the rounds. A product is one of a layer's three: y = x W' + b, dx = dy W, and dW = dy' x with db; oneDNN's
get their operands as it wants them, which is timed too. *of floor*: the share of what one core does on registers alone.
A step is forward, fused loss, backward and AdamW of a whole model on random sentences, without DeepSpeed; its ratio is
the median over rounds. Letters: N rows, I inputs, O outputs.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mnmt_ds.batch import Batch
from mnmt_ds.bench.arguments import add_output, add_rounds
from mnmt_ds.bench.measuring import cpu_seconds_of, processor, rotated, set_threads
from mnmt_ds.bench.publish import publish
from mnmt_ds.bench.random_text import random_text
from mnmt_ds.config.ranges import number_option
from mnmt_ds.errors import UserError
from mnmt_ds.kernels.ce_with_teacher import ce_with_teacher
from mnmt_ds.kernels.linear import NAMES, use
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise
from mnmt_ds.private_apis import has_onednn_linear, onednn_linear

HELP = "linear layers in fp32 on a CPU: torch's products, the C++ kernels', oneDNN's; steps with them"
SHAPES = (
    (64, 512, 512), (400, 128, 128), (400, 128, 384), (400, 128, 512), (400, 512, 128), (512, 512, 512),
    (512, 512, 1536), (512, 512, 2048), (512, 2048, 512), (4096, 512, 512), (4096, 512, 2048),
)  # fmt: skip
"""N, I, O: maps of the presets tiny and base, over a small batch and a large one."""
PRODUCTS = ("y", "dx", "dW")
PRESETS = ("tiny", "base")
VOCABULARY = 8000
LEAST_SECONDS = 0.02
"""A product is repeated until a turn takes about so long."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's arguments.

    Args:
        parser: the benchmark's parser.
    """
    add_rounds(parser, 7, "turns of each way")
    parser.add_argument(
        "--presets", nargs="*", choices=PRESETS, default=list(PRESETS), help="models whose step is timed"
    )
    parser.add_argument(
        "--max-tokens", type=number_option(int, ge=1), default=512, help="padded tokens of a step (default: 512)"
    )
    parser.add_argument("--updates", type=number_option(int, ge=1), default=4, help="steps a turn (default: 4)")
    add_output(parser, "linear")


def run(args: argparse.Namespace) -> int:
    """Measures, prints the tables and writes the result file.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code 0.

    Raises:
        UserError: where the kernels cannot be built.
    """
    set_threads()
    if reason := use("cpu"):
        raise UserError(f"bench linear: {reason}")
    floor = max(_floor() for _ in range(5))
    result = {
        "machine": processor(),
        "floor_gflops": round(floor, 1),
        "rows": [row for shape in SHAPES for row in _measure_products(*shape, args.rounds, floor)],
        "steps": [_measure_steps(preset, args) for preset in args.presets],
    }
    return publish("linear", table(result), result, args.out)


def table(result: Mapping[str, Any]) -> str:
    """Writes the results as tables.

    Args:
        result: ``rows``, one a product; ``steps``, one a model; ``floor_gflops``, of one core.

    Returns:
        Markdown.
    """
    lines = [
        f"Floor of one core: {result['floor_gflops']:.0f} GFLOP/s.",
        "",
        "| N | I | O | product | torch, GFLOP/s | kernels, GFLOP/s | oneDNN, GFLOP/s | kernels / torch | of floor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['rows']} | {r['inputs']} | {r['outputs']} | {r['product']} | {r['torch']:.0f} | {r['cpu']:.0f} |"
        f" {r['onednn']:.0f} | {r['cpu'] / r['torch']:.2f} | {100 * r['share_of_floor']:.0f} % |"
        for r in result["rows"]
    ]
    if result["steps"]:
        lines += ["", "| model | torch, tokens/CPU s | kernels, tokens/CPU s | ratio |", "|---|---|---|---|"]
    lines += [f"| {s['preset']} | {s['torch']:.0f} | {s['cpu']:.0f} | {s['ratio']:.2f} |" for s in result["steps"]]
    return "\n".join(lines)


def _floor() -> float:
    """GFLOP/s of one core on registers alone."""
    operations: list[int] = []
    seconds = cpu_seconds_of(lambda: operations.append(torch.ops.mnmt_ds_cpu.fill_registers(2_000_000)))
    return operations[0] / seconds / 1e9


def _measure_products(rows: int, inputs: int, outputs: int, rounds: int, floor: float) -> list[dict[str, Any]]:
    """A row for each product of a layer."""
    x, weight, bias, dy = (torch.randn(s) for s in ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs)))
    operations = 2 * rows * inputs * outputs / 1e9
    repeats = max(1, round(LEAST_SECONDS * floor / operations))
    measured = []
    for product in PRODUCTS:
        ways = {name: partial(_PRODUCTS[product, name], x, weight, bias, dy) for name in ("torch", "cpu", "onednn")}
        if not has_onednn_linear():
            del ways["onednn"]
        best = dict.fromkeys(ways, float("inf"))
        for round_number in range(rounds + 1):
            for name in rotated(list(ways), round_number):
                seconds = cpu_seconds_of(partial(_repeat, ways[name], repeats)) / repeats
                best[name] = min(best[name], seconds) if round_number else best[name]
        speeds = {name: round(operations / seconds, 1) for name, seconds in best.items()}
        measured.append(
            {"rows": rows, "inputs": inputs, "outputs": outputs, "product": product, "onednn": float("nan"), **speeds,
             "share_of_floor": round(speeds["cpu"] / floor, 3)}
        )  # fmt: skip
    return measured


def _repeat(way: Callable[[], Any], repeats: int) -> None:
    for _ in range(repeats):
        way()


def _kernels_y(x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> None:
    torch.ops.mnmt_ds_cpu.linear.default(x, weight, bias, False, torch.get_num_threads(), torch.empty_like(dy))


def _kernels_dx(x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> None:
    none, dx = torch.empty(0), torch.empty_like(x)
    torch.ops.mnmt_ds_cpu.linear_gradients.default(dy, none, none, weight, torch.get_num_threads(), dx, none, none)


def _kernels_dweight(x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> None:
    none, gradients = torch.empty(0), (torch.empty_like(weight), torch.empty_like(bias))
    torch.ops.mnmt_ds_cpu.linear_gradients.default(dy, none, x, weight, torch.get_num_threads(), none, *gradients)


_PRODUCTS: dict[tuple[str, str], Callable[[Tensor, Tensor, Tensor, Tensor], Any]] = {
    ("y", "torch"): lambda x, weight, bias, dy: F.linear(x, weight, bias),
    ("y", "cpu"): _kernels_y,
    ("y", "onednn"): lambda x, weight, bias, dy: onednn_linear(x, weight, bias),
    ("dx", "torch"): lambda x, weight, bias, dy: dy @ weight,
    ("dx", "cpu"): _kernels_dx,
    ("dx", "onednn"): lambda x, weight, bias, dy: onednn_linear(dy, weight.t().contiguous()),
    ("dW", "torch"): lambda x, weight, bias, dy: (dy.t() @ x, dy.sum(0)),
    ("dW", "cpu"): _kernels_dweight,
    ("dW", "onednn"): lambda x, weight, bias, dy: (
        onednn_linear(dy.t().contiguous(), x.t().contiguous()), dy.sum(0),
    ),
}  # fmt: skip
"""By product and way: called with x, W, b and dy."""


def _measure_steps(preset: str, args: argparse.Namespace) -> dict[str, Any]:
    """Target tokens a CPU second of a model's step with either kind of products, and their ratio."""
    torch.manual_seed(1)
    model = initialise(
        Transformer(ModelSettings.model_validate({"preset": preset, "dropout": 0.1}), VOCABULARY)
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    text = random_text(2, (args.rounds + 1) * args.updates, args.max_tokens, VOCABULARY)
    speeds: dict[str, list[float]] = {name: [] for name in NAMES}
    for round_number in range(args.rounds + 1):
        first = round_number * args.updates % len(text.micro_batches)
        batches = [text.batch(*parts) for parts in text.micro_batches[first : first + args.updates]]
        tokens = sum(batch.tokens for batch in batches)
        for name in rotated(list(NAMES), round_number):
            use(name)
            seconds = cpu_seconds_of(partial(_train, model, optimizer, batches))
            if round_number:  # the first round warms up
                speeds[name].append(tokens / seconds)
    ratio = statistics.median(ours / torchs for ours, torchs in zip(speeds["cpu"], speeds["torch"], strict=True))
    return {"preset": preset, **{name: statistics.median(speeds[name]) for name in NAMES}, "ratio": ratio}


def _train(model: Transformer, optimizer: torch.optim.Optimizer, batches: Sequence[Batch]) -> None:
    for batch in batches:
        states = model(batch.source_BS, batch.decoder_BT)
        sums = model.head(states.decoder_BTD, partial(_loss, batch))
        (sums / batch.tokens).backward()
        optimizer.step()
        optimizer.zero_grad()


def _loss(batch: Batch, hidden_BTD: Tensor, projection_VD: Tensor) -> Tensor:
    return ce_with_teacher(hidden_BTD, projection_VD, batch.target_BT, smoothing=0.1).loss
