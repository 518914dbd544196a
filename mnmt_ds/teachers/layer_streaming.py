"""Teachers too large to stand on a device: their layers pass through it, one at a time, for the micro-batch to come.

All ranks go through their teachers layer by layer together, so that one all-to-all brings each rank the layer of its
own teacher. It happens in the background of the step in hand; the micro-batch is made from the sentences announced.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from mnmt_ds.batch import PAD, Batch, to_device
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.teachers.cache_blocks import Ints
from mnmt_ds.teachers.pending_states import PendingStates, TeacherRequest, TeacherStates
from mnmt_ds.teachers.shard_exchange import BUCKET, all_to_all_shards
from mnmt_ds.teachers.shard_layout import ShardPiece, buckets, fill_parameters
from mnmt_ds.teachers.shard_storage import Version
from mnmt_ds.teachers.sharded_teachers import ON_DEVICE, ShardedTeachers

STACKS = ("encoder.", "decoder.")


class LayerStreamedTeachers:
    """Sharded teachers. On the device stand two embeddings and, of each, one encoder and decoder layer.

    ``thin`` makes a model of one encoder and one decoder layer; through those all layers of a teacher pass.
    """

    def __init__(
        self, teachers: ShardedTeachers, thin: Callable[[], Transformer], collate: Callable[[int, Ints], Batch]
    ) -> None:
        self.teachers = teachers
        self._thin, self._collate = thin, collate
        self._models: list[Transformer] = []
        self._turn = 0
        self._answers = PendingStates(teachers)
        pieces = teachers.layout.pieces
        self._encoder, self._decoder = (_layers(pieces, stack) for stack in STACKS)
        self._others = [piece for piece in pieces if not piece.name.startswith(STACKS)]

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops all teachers but these."""
        self.teachers.keep_only(versions)
        self._answers.clear()

    def prefetch(self, lessons: Sequence[TeacherRequest | None]) -> None:
        """Starts on what the ranks' next micro-batches need; all ranks call this in the same order."""
        while len(self._models) < ON_DEVICE:
            with torch.random.fork_rng():  # making a model draws random numbers
                self._models.append(self._thin())
        self._turn += 1
        model = self._models[self._turn % ON_DEVICE]
        future = self.teachers.background.submit(lambda: self._pass(lessons, model))
        self._answers.expect(lessons[self.teachers.ranks.rank], future)

    def states(self, version: Version, batch: Batch) -> TeacherStates:
        """The announced answer: decoder states (B, T, E) and projection (V, E)."""
        return self._answers.take(version, batch, self.prefetch)

    def models(self) -> list[nn.Module]:
        """What stands on this rank's device."""
        return list(self._models)

    def _pass(self, lessons: Sequence[TeacherRequest | None], model: Transformer) -> TeacherStates | None:
        """``Transformer.forward`` with the weights of each layer fetched before it is run."""
        versions = [None if lesson is None else lesson.version for lesson in lessons]
        mine = lessons[self.teachers.ranks.rank]
        self._fetch(versions, self._others, "", model)
        batch = None if mine is None else to_device(self._collate(mine.pair, mine.sentence), self.teachers.device)
        if batch is not None:
            mask_BS, x_BSD = batch.source_BS != PAD, model.source_embedding(batch.source_BS)
        for pieces in self._encoder:
            self._fetch(versions, pieces, "encoder.0.", model)
            if batch is not None:
                x_BSD = model.encoder[0](x_BSD, mask_BS)
        if batch is not None:
            memory_BSD, x_BTD = model.encoder_norm(x_BSD), model.embedding(batch.decoder_BT)
        for pieces in self._decoder:
            self._fetch(versions, pieces, "decoder.0.", model)
            if batch is not None:
                x_BTD = model.decoder[0](x_BTD, memory_BSD, mask_BS)
        return None if batch is None else (model.decoder_norm(x_BTD), model.head.weight)

    def _fetch(
        self, versions: Sequence[Version | None], pieces: Sequence[ShardPiece], layer: str, model: Transformer
    ) -> None:
        """Writes pieces into the model: those of a layer into its one layer (``layer``: that one's prefix)."""
        teachers, held = self.teachers, dict(model.named_parameters())
        into = {piece.name: held[layer + piece.name.split(".", 2)[-1] if layer else piece.name] for piece in pieces}
        for start, stop in buckets(pieces, BUCKET // teachers.ranks.size):
            received_RC = all_to_all_shards(
                teachers.shard_storage, teachers.ranks, teachers.device, versions, start, stop
            )
            if received_RC is not None:
                fill_parameters(teachers.layout, teachers.layout.between(start, stop), received_RC, start, into)


def _layers(pieces: Sequence[ShardPiece], stack: str) -> list[list[ShardPiece]]:
    """The pieces of each layer of a stack, in its order."""
    found: dict[str, list[ShardPiece]] = {}
    for piece in pieces:
        if piece.name.startswith(stack):
            found.setdefault(piece.name.split(".")[1], []).append(piece)
    return list(found.values())
