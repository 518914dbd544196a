"""Teachers too large for the device: their layers pass through it, one at a time, for the next micro-batch.

All ranks go through their teachers layer by layer together, so that one all-to-all brings each rank the layer of its
own teacher. This happens in the background of the present step; the micro-batch is made from the sentence numbers of
its request.

Letters: B sentences, S source tokens, T target tokens, D = E width, V vocabulary; R ranks, C elements of a shard.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from mnmt_ds.batch import PAD, Batch, to_device
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.teachers.cache_blocks import Ints
from mnmt_ds.teachers.pending_states import PendingStates
from mnmt_ds.teachers.shard_exchange import MAX_ELEMENTS_PER_EXCHANGE, all_to_all_shards
from mnmt_ds.teachers.shard_layout import ShardPiece, buckets, fill_parameters
from mnmt_ds.teachers.shard_storage import Version
from mnmt_ds.teachers.sharded_teachers import ON_DEVICE, ShardedTeachers
from mnmt_ds.teachers.teacher_server import TeacherRequest, TeacherStates

STACKS = ("encoder.", "decoder.")
"""Prefixes of the parameters that pass through the device layer by layer."""


class LayerStreamedTeachers:
    """Serves teachers of which the device holds two embeddings, two encoder layers and two decoder layers at most."""

    def __init__(
        self,
        teachers: ShardedTeachers,
        one_layer_model: Callable[[], Transformer],
        collate: Callable[[int, Ints], Batch],
    ) -> None:
        """Starts with nothing on the device.

        Args:
            teachers: the sharded weights; none of them is fetched whole.
            one_layer_model: makes a model of one encoder and one decoder layer, through which all layers pass.
            collate: makes a batch of some sentences (numbers) of a pair (number).
        """
        self._teachers = teachers
        self._one_layer_model, self._collate = one_layer_model, collate
        self._models: list[Transformer] = []
        self._prefetches = 0
        self._pending = PendingStates(teachers)
        pieces = teachers.layout.pieces
        self._encoder, self._decoder = (_layers(pieces, stack) for stack in STACKS)
        self._others = [piece for piece in pieces if not piece.name.startswith(STACKS)]

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops all other teachers.

        Args:
            versions: the teachers to keep.
        """
        self._teachers.keep_only(versions)
        self._pending.clear()

    def prefetch(self, requests: Sequence[TeacherRequest | None]) -> None:
        """Starts on the states of the ranks' next micro-batches; all ranks call this in the same order.

        Args:
            requests: one entry a data-parallel rank, equal on all of them; None: no teacher.
        """
        while len(self._models) < ON_DEVICE:
            with torch.random.fork_rng():  # making a model draws random numbers
                self._models.append(self._one_layer_model())
        self._prefetches += 1
        model = self._models[self._prefetches % ON_DEVICE]
        future = self._teachers.background.submit(lambda: self._forward(requests, model))
        self._pending.add(requests[self._teachers.ranks.rank], future)

    def states(self, version: Version, batch: Batch) -> TeacherStates:
        """Waits for the states of a prefetched micro-batch.

        Args:
            version: the teacher.
            batch: this rank's micro-batch.

        Returns:
            Decoder states (B, T, E) and projection (V, E).
        """
        return self._pending.pop(version, batch, self.prefetch)

    def models(self) -> list[nn.Module]:
        """Lists what is on this rank's device.

        Returns:
            None before the first request, then two models of one layer a stack.
        """
        return list(self._models)

    def report(self) -> dict[str, float]:
        """Gives metrics: none, since nothing is cached.

        Returns:
            An empty dictionary.
        """
        return {}

    def _forward(self, requests: Sequence[TeacherRequest | None], model: Transformer) -> TeacherStates | None:
        """Does what ``Transformer.forward`` does, with the weights of each layer fetched before it is run."""
        versions = [None if request is None else request.version for request in requests]
        own_request = requests[self._teachers.ranks.rank]
        self._fetch(versions, self._others, "", model)
        batch = None
        if own_request is not None:
            batch = to_device(self._collate(own_request.pair, own_request.sentence), self._teachers.device)
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
        """Writes pieces into the model; those of a layer into its only layer, whose prefix is ``layer``."""
        teachers, parameters = self._teachers, dict(model.named_parameters())
        targets = {
            piece.name: parameters[layer + piece.name.split(".", 2)[-1] if layer else piece.name] for piece in pieces
        }
        for start, stop in buckets(pieces, MAX_ELEMENTS_PER_EXCHANGE // teachers.ranks.size):
            received_RC = all_to_all_shards(
                teachers.shard_storage, teachers.ranks, teachers.device, versions, start, stop
            )
            if received_RC is not None:
                fill_parameters(teachers.layout.between(start, stop), received_RC, start, targets)


def _layers(pieces: Sequence[ShardPiece], stack: str) -> list[list[ShardPiece]]:
    """Groups the pieces of a stack by layer, in the layers' order."""
    layers: dict[str, list[ShardPiece]] = {}
    for piece in pieces:
        if piece.name.startswith(stack):
            layers.setdefault(piece.name.split(".")[1], []).append(piece)
    return list(layers.values())
