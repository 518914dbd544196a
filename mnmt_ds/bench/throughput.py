"""Training and decoding speed: ours under DeepSpeed, plain and distilling, against a plain PyTorch loop, taking turns.

All trainers step through the same batches, some updates each in turn, so that whatever else the machine does affects
all alike; ratios are medians over rounds. Tokens a CPU second are by the processor time of the process: others on the
machine count little there. *torch's products*: linear layers with torch's products, whatever the run would use. Peak
memory is that of a process of its own a trainer. On a GPU all train and decode there, in bf16.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mnmt_ds.bench.arguments import add_output, add_recipe, add_rounds, device_overrides
from mnmt_ds.bench.measuring import peak_mib, peak_mib_in_child, rotated, set_threads, times_of
from mnmt_ds.bench.publish import publish
from mnmt_ds.config.ranges import number_option

if TYPE_CHECKING:  # imported when the benchmark runs: DeepSpeed takes seconds
    from mnmt_ds.batch import Batch
    from mnmt_ds.engine.recipe import Recipe

HELP = "training tokens/s, peak memory and decoding sentences/s, plain and distilling"
TORCH_PRODUCTS = "plain, torch's products"
TRAINERS = ("plain loop", "plain", TORCH_PRODUCTS, "lssd")
FIXED = ("tracking.wandb=off", "method.teachers.cache=off")
"""Settings of every training here; ``bench teachers`` measures what cached states save."""
Update = Sequence["Batch"]
"""The micro-batches of an update."""
Trainer = Callable[[Update], None]
"""Takes one update."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's arguments.

    Args:
        parser: the benchmark's parser.
    """
    add_recipe(parser, "launchers/recipes/bench.yaml")
    add_rounds(parser, 7, "turns of each trainer")
    parser.add_argument("--updates", type=number_option(int, ge=1), default=20, help="updates a turn (default: 20)")
    parser.add_argument("--skip-decoding", action="store_true", help="training alone")
    add_output(parser, "throughput")
    parser.add_argument("--memory-of", choices=TRAINERS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Measures, prints the tables and writes the result file.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code 0.
    """
    from mnmt_ds.engine.recipe import load_recipe

    set_threads()
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(args.recipe, [*device_overrides(), *args.overrides, f"directory={folder}/run", *FIXED])
        if args.memory_of:
            print(json.dumps(_peak_mib(recipe, args.memory_of, args.updates)))
            return 0
        # before this process joins a job of its own
        peaks = {name: peak_mib_in_child("throughput", args, name) for name in TRAINERS}
        training = _measure_training(recipe, args.rounds, args.updates)
    for name in TRAINERS:
        training[name]["peak_mib"] = peaks[name]
    result: dict[str, Any] = {
        "deepspeed": str(recipe.deepspeed.name), "precision": recipe.train.precision, "training": training,
    }  # fmt: skip
    if not args.skip_decoding:
        from mnmt_ds.bench.decoding import measure_decoding
        from mnmt_ds.distributed import device

        result["decoding"] = [row._asdict() for row in measure_decoding(device=device().type)]
    return publish("throughput", table(result), result, args.out)


def table(result: Mapping[str, Any]) -> str:
    """Writes the results as tables.

    Args:
        result: ``training``, by trainer; ``decoding`` where it was measured, a row a decoder and workload.

    Returns:
        Markdown.
    """
    training = result["training"]
    has_cpu_seconds = all("tokens_per_cpu_sec" in row for row in training.values())
    more = " tokens/CPU s | ratio by CPU s |" if has_cpu_seconds else ""
    lines = [
        f"| trainer | target tokens/s | ratio to the plain loop | step / plain step |{more} peak MiB |",
        f"|---|---|---|---|{'---|---|' if has_cpu_seconds else ''}---|",
    ]
    for name, row in training.items():
        more = f" {row['tokens_per_cpu_sec']:.0f} | {row['cpu_ratio']:.2f} |" if has_cpu_seconds else ""
        lines.append(
            f"| {name} | {row['tokens_per_sec']:.0f} | {row['ratio']:.2f} | {row['step_ratio']:.2f} |{more}"
            f" {row['peak_mib']:.0f} |"
        )
    if "decoding" in result:
        lines += ["", "| decoder | workload | sentences/s | ratio to transformers |", "|---|---|---|---|"]
        lines += [
            f"| {row['decoder']} | {row['workload']} | {row['sentences_per_second']:.1f} | {row['ratio']:.2f} |"
            for row in result["decoding"]
        ]
    return "\n".join(lines)


def _measure_training(recipe: "Recipe", rounds: int, updates: int) -> dict[str, dict[str, float]]:
    """Target tokens a second of each trainer, by the clock and by the processor, and ratios of them."""
    from mnmt_ds.distributed import job
    from mnmt_ds.log import set_up_deepspeed

    set_up_deepspeed()
    with job():
        trainers, epoch = _trainers(recipe, TRAINERS)
        speeds: list[dict[str, list[float]]] = []
        for round_number in range(rounds + 1):
            turn = [epoch[(round_number * updates + k) % len(epoch)] for k in range(updates)]
            tokens = sum(micro_batches[0].divisor for micro_batches in turn)
            speed = {
                name: [tokens / seconds for seconds in times_of(partial(_train, trainers[name], turn))]
                for name in rotated(list(TRAINERS), round_number)
            }
            if round_number:  # the first round warms up
                speeds.append(speed)
    return {
        name: {
            "tokens_per_sec": statistics.median(speed[name][0] for speed in speeds),
            "ratio": statistics.median(speed[name][0] / speed["plain loop"][0] for speed in speeds),
            "step_ratio": statistics.median(speed["plain"][0] / speed[name][0] for speed in speeds),
            "tokens_per_cpu_sec": statistics.median(speed[name][1] for speed in speeds),
            "cpu_ratio": statistics.median(speed[name][1] / speed["plain loop"][1] for speed in speeds),
        }
        for name in TRAINERS
    }


def _train(trainer: Trainer, updates: Sequence[Update]) -> None:
    for micro_batches in updates:
        trainer(micro_batches)


def _trainers(recipe: "Recipe", names: tuple[str, ...]) -> tuple[dict[str, Trainer], list[list["Batch"]]]:
    """Makes all trainers, those in ``names`` ready to run, and gives an epoch's updates to take."""
    from mnmt_ds.batch import to_device
    from mnmt_ds.bench import plain_loop
    from mnmt_ds.distributed import device
    from mnmt_ds.engine.loop import forward_backward, step, student_loops
    from mnmt_ds.engine.training import Training
    from mnmt_ds.kernels import linear
    from mnmt_ds.methods.method import ValidationReport
    from mnmt_ds.teachers.teacher_bank import TeacherBank

    training = Training(recipe, resume=False)
    training_data, method = training.first.training_data, training.first.method
    epoch = list(training_data.iterate_updates(training_data.plan(0), 0))
    loop = student_loops(training, next_evaluation=lambda student: 0)[training.first.name]
    bank = method.state["teachers"]
    assert isinstance(bank, TeacherBank)

    def engine_trainer(distilling: bool, products: str) -> Trainer:
        def train(micro_batches: Update) -> None:
            linear.use(products)
            for pair in training.pairs:
                bank.switch[pair] = distilling
            step(loop, forward_backward(loop, list(micro_batches)), stop=False)

        return train

    if names != ("plain loop",):
        for number in range(len(training.pairs) + 1):  # one pair after another improves: each gets its own teacher
            dev = {pair: 0.5 if k < number else 1.0 for k, pair in enumerate(training.pairs)}
            method.on_validation(ValidationReport(number + 1, 0.0, dev))
    plain_step = plain_loop.make(recipe.model, recipe.train, training.corpus.tokenizer.size, device())

    def plain_trainer(micro_batches: Update) -> None:
        for batch in micro_batches:
            plain_step(to_device(batch, device()))

    own = training.linear_products
    engines = {
        "plain": engine_trainer(False, own), TORCH_PRODUCTS: engine_trainer(False, "torch"),
        "lssd": engine_trainer(True, own),
    }  # fmt: skip
    return {"plain loop": plain_trainer, **engines}, epoch


def _peak_mib(recipe: "Recipe", name: str, updates: int) -> float:
    """Peak memory of this process after training with one trainer alone."""
    from mnmt_ds.distributed import job
    from mnmt_ds.log import set_up_deepspeed

    set_up_deepspeed()
    with job():
        trainers, epoch = _trainers(recipe, (name,))
        _train(trainers[name], epoch[: 3 * updates])
        return peak_mib()
