"""What training reads of monolingual text of any size: time and peak memory of an epoch's plan and its batches.

    python -m tests.data.scale_monolingual CORPUS --sentences 100000000 --directory /tmp/mono

Takes a prepared corpus, puts made-up text of one of its languages beside it (ids alone: 2 to 22 a sentence), and draws
batches of concurrent denoising from it.
"""

import argparse
import os
import struct
import time
from pathlib import Path

import numpy as np
import psutil

from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.indexed import HEADER
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.engine.recipe import load_recipe
from mnmt_ds.parallel_layout import ParallelLayout

BLOCK = 1_000_000


def write(prefix: Path, sentences: int, vocabulary: int) -> None:
    """An indexed dataset of random ids, in megatron-core's format, a million sentences at a time."""
    draw = np.random.default_rng(1)
    lengths = draw.integers(2, 23, sentences, np.int32)
    with Path(f"{prefix}.idx").open("wb") as file:
        file.write(HEADER + struct.pack("<QBQQ", 1, 8, sentences, sentences + 1) + lengths.tobytes())
        ends = np.cumsum(lengths, dtype=np.int64) * 2
        file.write((ends - 2 * lengths).tobytes())
        file.write(np.arange(sentences + 1, dtype=np.int64).tobytes())
    with Path(f"{prefix}.bin").open("wb") as file:
        for first in range(0, sentences, BLOCK):
            count = int(lengths[first : first + BLOCK].sum())
            file.write(draw.integers(300, vocabulary - 100, count, np.uint16).tobytes())


def main() -> None:
    """Writes the text where it is not there yet, draws an epoch's first batches, prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--sentences", type=int, default=100_000_000)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=300)
    args = parser.parse_args()
    corpus = Corpus.open(args.corpus)
    language = corpus.pairs[0].partition("-")[0]
    mono = args.directory / "bin" / f"mono.{language}"
    if not mono.with_name(mono.name + ".done").exists():
        mono.parent.mkdir(parents=True, exist_ok=True)
        write(mono, args.sentences, corpus.tokenizer.size)
        mono.with_name(mono.name + ".done").touch()
    for path in (args.corpus / "bin").iterdir():
        target = mono.parent / path.name
        if not target.exists():
            os.symlink(path.absolute(), target)
    big = Corpus(args.directory, {**corpus.manifest, "monolingual": [language]}, corpus.tokenizer)
    method = "method={name: by_task, tasks: {translation: {name: translation}, cd: {name: denoising}}}"
    overrides = [f"data.directory={args.corpus}", "denoising={tasks: [{name: cd}], ratio: 1}", method]
    recipe = load_recipe(Path("launchers/recipes/gettext_plain.yaml"), overrides)
    process = psutil.Process()
    before, began = process.memory_info(), time.monotonic()
    stream = TrainingData(
        big, list(big.pairs), recipe.framing, recipe.sampler, recipe.train, 1024, ParallelLayout(), recipe.denoising
    )
    opened = time.monotonic() - began
    plan = stream.plan(3)
    planned = time.monotonic() - began - opened
    tokens = 0
    for number, group in enumerate(stream.iterate_updates(plan, 0)):
        tokens += sum(batch.tokens for batch in group)
        if number == args.batches:
            break
    after = process.memory_info()
    print(f"{args.sentences:,} sentences of {language}: opened in {opened:.1f} s, an epoch planned in {planned:.1f} s")
    print(f"{args.batches} updates of batches, {tokens:,} tokens: {time.monotonic() - began - opened - planned:.1f} s")
    own = (after.rss - after.shared - before.rss + before.shared) / 2**20
    mapped = (after.shared - before.shared) / 2**20
    print(f"memory of its own: {own:.0f} MiB more; of files that it maps, and the system takes back: {mapped:.0f} MiB")


if __name__ == "__main__":
    main()
