"""Command-line arguments that several benchmarks share."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnmt_ds.config import parse_yaml
from mnmt_ds.config.paths import path_option
from mnmt_ds.config.ranges import number_option
from mnmt_ds.models.settings import ModelSettings

SMALL_MODEL: dict[str, Any] = {"preset": "base", "d_model": 256, "ffn": 1024, "heads": 4}
"""Settings of the model that is measured where the command line says nothing else."""


def add_recipe(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds RECIPE and its overrides.

    Args:
        parser: the benchmark's parser.
        default: path of the recipe that is measured where none is given.
    """
    parser.add_argument("recipe", type=path_option, nargs="?", default=Path(default))
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="settings that replace the recipe's")


def device_overrides() -> tuple[str, ...]:
    """Chooses settings for trainings measured on this device; the command line may override them.

    Returns:
        bf16 on a GPU; the recipe's own precision on a CPU.
    """
    from mnmt_ds.distributed import uses_gpu

    return ("train.precision=bf16",) if uses_gpu() else ()


def add_random_training(parser: argparse.ArgumentParser) -> None:
    """Adds what a training on random sentences needs: sizes, DeepSpeed's configuration, the model's settings.

    Args:
        parser: the benchmark's parser.
    """
    parser.add_argument(
        "--max-tokens", type=number_option(int, ge=1), default=512, help="padded tokens of a micro-batch"
    )
    parser.add_argument("--vocabulary", type=number_option(int, ge=1), default=4000)
    parser.add_argument("--deepspeed", type=path_option, default=Path("ds_configs/zero1.json"))
    shape = " ".join(f"{name}={value}" for name, value in SMALL_MODEL.items())
    parser.add_argument("model", nargs="*", metavar="a=b", help=f"model settings (default: {shape})")


def add_rounds(parser: argparse.ArgumentParser, default: int, description: str) -> None:
    """Adds --rounds.

    Args:
        parser: the benchmark's parser.
        default: rounds where none are given; one more warms up.
        description: help text, such as "turns of each method".
    """
    parser.add_argument(
        "--rounds", type=number_option(int, ge=1), default=default, help=f"{description} (default: {default})"
    )


def add_output(parser: argparse.ArgumentParser, benchmark: str) -> None:
    """Adds --out.

    Args:
        parser: the benchmark's parser.
        benchmark: name of the benchmark.
    """
    where = f"runs/bench/{benchmark}-DATE-DEVICE.json"
    parser.add_argument("--out", type=path_option, help=f"JSON result file; default: {where}")


def add_rank_result(parser: argparse.ArgumentParser) -> None:
    """Adds --result, which a benchmark gives to the ranks that it starts: where they write their rows.

    Args:
        parser: the benchmark's parser.
    """
    parser.add_argument("--result", type=path_option, help=argparse.SUPPRESS)


def model_settings(words: Sequence[str]) -> ModelSettings:
    """Makes the settings of the model that is measured.

    Args:
        words: ``name=value`` each, in place of ``SMALL_MODEL``'s.

    Returns:
        The settings.
    """
    overrides = {name: parse_yaml(value) for name, _, value in (word.partition("=") for word in words)}
    return ModelSettings.model_validate({**SMALL_MODEL, **overrides})
