"""Dev losses of every pair, summed over ranks in float64, so that every rank decides the same.

Letters: B sentences of a batch.
"""

import math
from collections.abc import Sequence

import torch

from mnmt_ds.batch import PAD
from mnmt_ds.engine.dataloading.dev_batches import DevBatches
from mnmt_ds.engine.parallel.engine import Engine, LossFunction

PairValues = dict[str, dict[str, float]]
"""Figures by name, of each pair."""


def validate(engine: Engine, dev: DevBatches, pairs: Sequence[str], compute_loss: LossFunction) -> PairValues:
    """Computes dev losses of the present weights.

    Args:
        engine: of the student; all of its ranks call this together.
        dev: this rank's batches of all pairs' dev sets.
        pairs: their names.
        compute_loss: the plain cross-entropy, with sums of sentences where batches mix pairs.

    Returns:
        Of each pair "loss" (label-smoothed cross-entropy) and "nll", in nats a token, and "ppl"; equal on all ranks.
    """
    layout = engine.layout
    sums = torch.zeros(len(pairs), 3, dtype=torch.float64)
    filled = [*dev.batches, *[dev.empty] * (dev.steps - len(dev.batches))]
    # each is run when it is asked for, those that are not counted, too: other ranks gather at ZeRO-3 meanwhile
    for number, metrics in enumerate(engine.eval_metrics(filled, compute_loss)):  # nothing where nobody reports
        if number >= len(dev.batches):
            continue
        if dev.pairs is None:
            ce, nll = metrics["ce"].double().cpu(), metrics["nll"].double().cpu()
            sums[dev.batches[number].pair] += torch.stack([ce[0], nll[0], ce[1]])
        else:
            tokens_B = (dev.batches[number].target_BT != PAD).sum(1)
            rows_B3 = torch.stack([metrics[name].double().cpu() for name in ("ce_B", "nll_B")] + [tokens_B.double()], 1)
            sums.index_add_(0, torch.from_numpy(dev.pairs[number]), rows_B3)
    sums = layout.sum_over_ranks(sums.to(layout.device)).cpu()
    values = {}
    for name, (ce_sum, nll_sum, tokens) in zip(pairs, sums.tolist(), strict=True):
        nll_mean = nll_sum / tokens
        values[name] = {"loss": ce_sum / tokens, "nll": nll_mean, "ppl": math.exp(min(nll_mean, 50.0))}
    return values
