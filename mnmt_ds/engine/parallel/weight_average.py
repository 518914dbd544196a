"""An exponential moving average of an engine's trained weights (fairseq's ``--ema-decay``), in the shards of ZeRO.

Each rank averages the fp32 masters that it holds itself, and nothing else: at ZeRO 1 to 3 its own shard, along a
pipeline its stage's. Where the averaged weights are wanted, they take the masters' place for so long, and the weights
are made from them as they are behind a step.

In a checkpoint each rank writes its parts by parameter and position; a run on other ranks or at another stage of ZeRO
picks its own parts out of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mnmt_ds.errors import UserError
from mnmt_ds.models.weights import write_safetensors
from mnmt_ds.parallel_layout import ParallelLayout
from mnmt_ds.private_masters import MasterFragment, master_fragments, weights_from_masters

BLOCK = 1 << 22
"""Elements that are exchanged at once."""


class WeightAverage:
    """This rank's part of the average: after each update ``average = decay * average + (1 - decay) * weights``."""

    def __init__(self, deepspeed_engine: Any, module: nn.Module, layout: ParallelLayout, decay: float, start: int):
        """Begins with the present weights.

        Args:
            deepspeed_engine: a DeepSpeedEngine that has just been made.
            module: with its parameters, by the plain model's names.
            layout: the ranks.
            decay: share that the average keeps at each update, in (0, 1).
            start: the first update that is averaged; until then the average is the weights.
        """
        self._deepspeed_engine, self._module, self._layout = deepspeed_engine, module, layout
        self._decay, self._start = decay, start
        self.values = [fragment.values.clone() for fragment in self._fragments()]
        """float32, of each fragment of this rank's masters."""

    def _fragments(self) -> list[MasterFragment]:
        return list(master_fragments(self._deepspeed_engine, self._module))

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights of the update that the engine has just made; one that it left out counts for nothing."""
        if not self._deepspeed_engine.was_step_applied():
            return
        taken = 1.0 if self._deepspeed_engine.global_steps < self._start else 1 - self._decay
        for average, fragment in zip(self.values, self._fragments(), strict=True):
            average.lerp_(fragment.values, taken)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the averaged weights in the trained ones' place for as long as the block runs; no update may fall in it.

        All ranks of the engine enter and leave it together. Where the block fails nothing is put back, for that takes
        all ranks: the run ends.

        Returns:
            Nothing: a context manager.
        """
        self._exchange()
        yield
        self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Masters and average change places; the weights follow the masters."""
        for average, fragment in zip(self.values, self._fragments(), strict=True):
            for kept, master in zip(average.split(BLOCK), fragment.values.split(BLOCK), strict=True):
                before = master.clone()
                master.copy_(kept)
                kept.copy_(before)
        weights_from_masters(self._deepspeed_engine, self._module)

    def files(self) -> dict[str, Callable[[Path], None]]:
        """Returns what this rank writes into a checkpoint: safetensors, whose header says where each part begins.

        Returns:
            By the file's name, a function that writes it; nothing where another rank has the same.
        """
        layout = self._layout
        if self._deepspeed_engine.zero_optimization_stage() == 0 and layout.data_parallel_rank > 0:
            return {}
        fragments = self._fragments()
        parts = {fragment.name: average for fragment, average in zip(fragments, self.values, strict=True)}
        starts = {fragment.name: str(fragment.start) for fragment in fragments}
        name = f"average_{layout.vocab_parallel_rank}_{layout.ranks.rank:05d}.safetensors"
        return {name: lambda path: write_safetensors(parts, path, starts)}

    @torch.no_grad()
    def load(self, directory: Path) -> None:
        """Takes this rank's parts from a checkpoint, whichever ranks have written it.

        Where it has none, the average begins with the present weights.

        Args:
            directory: with the files of ``files``.

        Raises:
            UserError: where they lack a part.
        """
        with ExitStack() as opened:
            paths = sorted(directory.glob(f"average_{self._layout.vocab_parallel_rank}_*.safetensors"))
            files = [opened.enter_context(safe_open(path, "pt")) for path in paths]
            starts = [file.metadata() or {} for file in files]
            for average, (name, start, values) in zip(self.values, self._fragments(), strict=True):
                written = [(int(begin[name]), file) for begin, file in zip(starts, files, strict=True) if name in begin]
                if not files:
                    average.copy_(values)
                elif _fill(average, name, start, written) < len(average):
                    raise UserError(f"{directory}: lacks averaged weights of {name}; resume from another checkpoint")


def _fill(average: Tensor, name: str, start: int, written: Sequence[tuple[int, Any]]) -> int:
    """Fills a part that begins at ``start`` from files whose parts begin at the given places; how far it got."""
    filled = 0
    for begin, file in sorted(written, key=lambda each: each[0]):
        part = file.get_slice(name)
        first, last = max(start + filled, begin), min(start + len(average), begin + part.get_shape()[0])
        if first == start + filled < last:
            average[filled : last - start] = part[first - begin : last - begin]
            filled = last - start
    return filled


@contextmanager
def averaged_weights(average: WeightAverage | None) -> Iterator[None]:
    """Puts an engine's averaged weights in place for as long as the block runs, where it has any.

    Args:
        average: of the engine; None: it has none.

    Returns:
        Nothing: a context manager.
    """
    if average is None:
        yield
    else:
        with average.in_place():
            yield
