"""Teachers too large for the device: their layers pass through it, one at a time, for the next micro-batch.

All ranks go through their teachers layer by layer together, so that one all-to-all brings each rank the layer of its
own teacher. This happens in the background of the present step; the micro-batch is made from the sentence numbers of
its request.

Letters: B sentences, S source tokens, T target tokens, D = E width, V vocabulary; R ranks, C elements of a shard.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mnmt_ds.batch import PAD, Batch, to_device
from mnmt_ds.models.lora import is_adapter
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.teachers.cache_blocks import Ints
from mnmt_ds.teachers.pending_states import PendingStates
from mnmt_ds.teachers.shard_exchange import MAX_ELEMENTS_PER_EXCHANGE, all_to_all_shards
from mnmt_ds.teachers.shard_layout import ShardLayout, ShardPiece, buckets, fill_parameters
from mnmt_ds.teachers.shard_storage import ShardStorage, Version
from mnmt_ds.teachers.sharded_teachers import ON_DEVICE, ShardedTeachers
from mnmt_ds.teachers.teacher_server import TeacherRequest, TeacherStates

STACKS = ("encoder.", "decoder.")
"""Prefixes of the parameters that pass through the device layer by layer."""


FROZEN: Version = "frozen"
"""Under which ``FrozenShards`` keeps its shard."""


class FrozenShards(NamedTuple):
    """Shards of the weights that the student does not train, kept once for all teachers."""

    storage: ShardStorage
    """Storage of one shard, whose version is ``FROZEN``."""
    layout: ShardLayout
    """How these weights are cut."""


class LayerStreamedTeachers:
    """Serves teachers of which the device holds two embeddings, two encoder layers and two decoder layers at most."""

    def __init__(
        self,
        teachers: ShardedTeachers,
        one_layer_model: Callable[[], Transformer],
        collate: Callable[[int, Ints], Batch],
        frozen: FrozenShards | None = None,
    ) -> None:
        """Starts with nothing on the device.

        Args:
            teachers: the sharded weights; none of them is fetched whole.
            one_layer_model: makes a model of one encoder and one decoder layer, through which all layers pass.
            collate: makes a batch of some sentences (numbers) of a pair (number).
            frozen: what all teachers have alike; None: nothing.
        """
        self._teachers = teachers
        self._one_layer_model, self._collate = one_layer_model, collate
        self._models: list[Transformer] = []
        self._prefetches = 0
        self._pending = PendingStates(teachers)
        self._frozen = frozen
        layouts = [teachers.layout] + ([frozen.layout] if frozen is not None else [])
        self._parts = [_by_layer(layout.pieces) for layout in layouts]
        names = sorted({name for pieces_by_layer in self._parts for name in pieces_by_layer if name}, key=_number)
        self._encoder, self._decoder = ([name for name in names if name.startswith(stack)] for stack in STACKS)

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops all other teachers.

        Args:
            versions: the teachers to keep.
        """
        self._teachers.keep_only(versions)
        self._pending.clear()

    def prefetch(self, requests: Sequence[TeacherRequest | None]) -> None:
        """Starts to compute the states of the ranks' next micro-batches; all ranks call this in the same order.

        Args:
            requests: one entry a data-parallel rank, equal on all of them; None: no teacher.
        """
        while len(self._models) < ON_DEVICE:
            with torch.random.fork_rng(devices=()):  # making a model draws random numbers, on the CPU
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
        """Lists the models of single layers on this rank's device.

        Returns:
            None before the first request, then two models of one layer a stack.
        """
        return list(self._models)

    def report(self) -> dict[str, float]:
        """Returns no metrics, since nothing is cached.

        Returns:
            An empty dictionary.
        """
        return {}

    def _forward(self, requests: Sequence[TeacherRequest | None], model: Transformer) -> TeacherStates | None:
        """Does what ``Transformer.forward`` does, with the weights of each layer fetched before it is run."""
        versions = [None if request is None else request.version for request in requests]
        own_request = requests[self._teachers.ranks.rank]
        self._fetch(versions, "", model)
        batch = None
        if own_request is not None:
            batch = to_device(self._collate(own_request.pair, own_request.sentence), self._teachers.device)
            mask_BS, x_BSD = batch.source_BS != PAD, model.source_embedding(batch.source_BS)
        for layer in self._encoder:
            self._fetch(versions, layer, model)
            if batch is not None:
                x_BSD = model.encoder[0](x_BSD, mask_BS)
        if batch is not None:
            memory_BSD, x_BTD = model.encoder_norm(x_BSD), model.embedding(batch.decoder_BT)
        for layer in self._decoder:
            self._fetch(versions, layer, model)
            if batch is not None:
                x_BTD = model.decoder[0](x_BTD, memory_BSD, mask_BS)
        return None if batch is None else (model.decoder_norm(x_BTD), model.head.weight)

    def _fetch(self, versions: Sequence[Version | None], layer: str, model: Transformer) -> None:
        """Writes a layer's weights into the model's only layer of that stack; ``layer`` empty: all that is in none."""
        only = f"{layer.split('.')[0]}.0." if layer else ""
        parameters = {name: value for name, value in model.named_parameters() if not only or name.startswith(only)}
        storages = [self._teachers.shard_storage] + ([self._frozen.storage] if self._frozen is not None else [])
        layouts = [self._teachers.layout] + ([self._frozen.layout] if self._frozen is not None else [])
        alike = [None if version is None else FROZEN for version in versions]
        absent = set(parameters)
        for storage, layout, pieces_by_layer, stored_versions in zip(
            storages, layouts, self._parts, (versions, alike), strict=False
        ):
            pieces = pieces_by_layer.get(layer, [])
            targets = {piece.name: only + piece.name.removeprefix(f"{layer}.") for piece in pieces}
            absent -= set(targets.values())
            self._receive(
                storage, layout, pieces, stored_versions, {name: parameters[at] for name, at in targets.items()}
            )
        for name in absent:
            if is_adapter(name):  # a frozen layer has no adapters, others pass through the same model
                parameters[name].zero_()

    def _receive(
        self, storage: ShardStorage, layout: ShardLayout, pieces: Sequence[ShardPiece],
        versions: Sequence[Version | None], targets: Mapping[str, Tensor],
    ) -> None:  # fmt: skip
        """Brings pieces from all ranks' shards and writes them into this rank's parameters."""
        teachers = self._teachers
        for start, stop in buckets(pieces, MAX_ELEMENTS_PER_EXCHANGE // teachers.ranks.size):
            received_RC = all_to_all_shards(storage, teachers.ranks, teachers.device, versions, start, stop)
            if received_RC is not None:
                fill_parameters(layout.between(start, stop), received_RC, start, targets)


def _by_layer(pieces: Sequence[ShardPiece]) -> dict[str, list[ShardPiece]]:
    """Groups pieces by layer, such as encoder.3; those that are in none under an empty name."""
    layers: dict[str, list[ShardPiece]] = {}
    for piece in pieces:
        name = ".".join(piece.name.split(".")[:2]) if piece.name.startswith(STACKS) else ""
        layers.setdefault(name, []).append(piece)
    return layers


def _number(layer: str) -> int:
    return int(layer.split(".")[1])
