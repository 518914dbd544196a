"""First weights of a pipeline stage, and all stages' weights brought together, without ever holding the whole model."""

from collections.abc import Collection

import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds.engine.parallel.pipeline_module import StudentPipelineModule
from mnmt_ds.models.layer_sequence import LayerEntry, ModelChunk
from mnmt_ds.models.transformer import Transformer, initialise_parameter
from mnmt_ds.models.vocab_parallel import VocabShard, is_vocab_sharded, vocab_shard_of
from mnmt_ds.parallel_layout import ParallelLayout


def initialise_stage(stage: ModelChunk, vocab_shard: VocabShard | None = None) -> None:
    """Draws the plain model's first weights into a chunk of it, from torch's present random state.

    Args:
        stage: whose parameters are written; of a split matrix the rows of ``vocab_shard``.
        vocab_shard: this rank's words; None: all.
    """
    for entry in stage.entries:
        entry.make()  # which draws values, too, as the plain model does when it is made
    with torch.device("meta"):
        plain = dict(Transformer(stage.settings, stage.vocabulary_size).named_parameters())
    held = dict(stage.named_parameters())
    for name, shaped in plain.items():
        target = held[name].data if name in held else None
        shard = vocab_shard if name in held and is_vocab_sharded(held[name]) else None
        whole = torch.empty(shaped.shape) if target is None or shard is not None else target
        initialise_parameter(name, whole, stage.settings.d_model)
        if target is not None and shard is not None:
            target.copy_(whole[shard.start : shard.stop])


def gather_stages(
    module: StudentPipelineModule, layout: ParallelLayout, everywhere: bool, names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Gathers all stages' weights on the CPU, one parameter at a time; all ranks call this.

    Args:
        module: this rank's stage.
        layout: the ranks.
        everywhere: on all ranks, not on the main one alone (where the others get empty tensors).
        names: of those that are brought together; None: all.

    Returns:
        Tensors by the plain model's names.
    """
    held: dict[str, Tensor] = dict(module.model.named_parameters())
    dtype, weights = next(module.parameters()).dtype, dict[str, Tensor]()
    ranks_a_stage = layout.data_parallel_size * layout.vocab_parallel_size
    for index, entry in enumerate(module.entries):
        with torch.device("meta"):
            shapes = {f"{entry.name}.{name}": p.shape for name, p in entry.make().named_parameters()}
        first = module.stage_owner(index) * ranks_a_stage
        for name, shape in shapes.items():
            if name in weights or (names is not None and name not in names):
                continue
            rows = []
            for source, size in _holders(entry, first, shape, module.vocab_shard, layout):
                is_source = layout.ranks.rank == source
                value = held[name].detach() if is_source else torch.empty(size, dtype=dtype, device=layout.device)
                if layout.ranks.size > 1:
                    dist.broadcast(value, source)
                rows.append(value.to("cpu", copy=True) if everywhere or layout.is_main else value.new_empty(0))
            weights[name] = torch.cat(rows) if len(rows) > 1 else rows[0]
    return weights


def _holders(
    entry: LayerEntry, first: int, shape: torch.Size, vocab_shard: VocabShard | None, layout: ParallelLayout
) -> list[tuple[int, torch.Size]]:
    """Who holds a layer's parameter, whose first holder is rank ``first``, and how large a part: in order of rows."""
    if vocab_shard is None or entry.kind not in ("source", "target", "projection", "head"):
        return [(first, shape)]
    shards = [vocab_shard_of(vocab_shard.group, shape[0], rank) for rank in range(layout.vocab_parallel_size)]
    return [(first + k, torch.Size([shard.stop - shard.start, *shape[1:]])) for k, shard in enumerate(shards)]
