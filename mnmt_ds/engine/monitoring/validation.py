"""Dev losses of every pair, summed over ranks in float64, so that every rank decides the same."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mnmt_ds.batch import Batch, to_device
from mnmt_ds.distributed import device, shard_evenly, sum_over_ranks, vocab_parallel_rank
from mnmt_ds.engine.parallel import pipeline_engine
from mnmt_ds.engine.students.student import Scorer, eval_mode, is_pipeline_engine


def validate(engine: Any, batches: Sequence[Batch], pairs: Sequence[str], score: Scorer) -> dict[str, dict[str, float]]:
    """{pair: {"loss": smoothed CE a token, "nll", "ppl"}} over the pairs' dev sets.

    Each rank takes every world_size-th batch; one that has none left runs an empty batch, since at ZeRO-3 all must
    gather together.
    """
    sums = torch.zeros(len(pairs), 3, dtype=torch.float64)
    mine = shard_evenly(batches)
    ready = [batch if batch is not None else batches[0] for batch in mine]
    found_metrics = pipeline_engine.eval_metrics if is_pipeline_engine(engine) else _quiet_metrics
    for batch, metrics in zip(mine, found_metrics(engine, ready, score), strict=False):  # scored on a last stage alone
        if batch is not None and vocab_parallel_rank() == 0:
            ce, nll = metrics["ce"].double().cpu(), metrics["nll"].double().cpu()
            sums[batch.pair] += torch.stack([ce[0], nll[0], ce[1]])
    sums = sum_over_ranks(sums.to(device())).cpu() if device().type == "cuda" else sum_over_ranks(sums)
    found = {}
    for name, (ce, nll, tokens) in zip(pairs, sums.tolist(), strict=True):
        found[name] = {"loss": ce / tokens, "nll": nll / tokens, "ppl": math.exp(min(nll / tokens, 50.0))}
    return found


def _quiet_metrics(engine: Any, batches: Sequence[Batch], score: Scorer) -> Iterator[dict[str, Tensor]]:
    for batch in batches:
        with eval_mode(engine):
            yield engine(to_device(batch, device()), score)[1]
