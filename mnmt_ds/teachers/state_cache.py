"""Teachers' decoder states, cached: computed once a block, kept by the rank that computed them, sent where needed.

Every rank knows all ranks' next requests. So all compute alike which blocks are new, who computes them and who sends
what to whom; nobody asks, and the collectives come in the same order everywhere. All of it happens in the background of
the present step. What is left of the teacher in the step is the fused loss's product with its projection.

Along a pipeline the last stages cache, and the stages before them keep the same table of what is cached: for cached
states they neither fetch a teacher nor run its layers. Ranks that share a vocabulary cache the same states, each its
own copy.

Letters: B sentences, T target tokens, E width, V vocabulary; R rows (one a target token), W bytes of a row.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from mnmt_ds import metric_keys
from mnmt_ds.batch import Batch, to_device
from mnmt_ds.teachers.block_owners import NO_OWNER, BlockOwners, gather_lost
from mnmt_ds.teachers.cache_blocks import CachePlan, Ints
from mnmt_ds.teachers.cached_rows import CacheLookup, assemble_rows, exchange_rows, padded_states
from mnmt_ds.teachers.pending_states import PendingStates
from mnmt_ds.teachers.shard_storage import Version
from mnmt_ds.teachers.sharded_teachers import FetchRequest, ShardedTeachers
from mnmt_ds.teachers.state_codec import encode
from mnmt_ds.teachers.state_storage import BlockKey, StateStorage
from mnmt_ds.teachers.teacher_forward import TeacherForward
from mnmt_ds.teachers.teacher_server import TeacherRequest, TeacherStates


class StateCache:
    """Serves teacher states from a cache that is spread over the data-parallel ranks."""

    def __init__(
        self,
        teachers: ShardedTeachers,
        plan: CachePlan,
        state_storage: StateStorage,
        collate: Callable[[int, Ints], Batch],
        fp8: bool,
        forward: TeacherForward,
    ) -> None:
        """Starts with nothing cached.

        Args:
            teachers: the sharded weights, fetched where states must be computed.
            plan: which blocks are cached.
            state_storage: this rank's cached blocks.
            collate: makes a batch of some sentences (numbers) of a pair (number).
            fp8: whether states are cached as 8-bit floats, else as float16.
            forward: computes states.
        """
        self.teachers, self.plan, self.state_storage = teachers, plan, state_storage
        self._collate, self._fp8, self._forward = collate, fp8, forward
        self._served_sentences = self._computed_sentences = 0
        self._owners = BlockOwners(plan, teachers.ranks.size)
        self._pending = PendingStates(teachers)

    def keep_only(self, versions: Iterable[Version]) -> None:
        """Drops all other teachers, with their cached states; all ranks call this together.

        Args:
            versions: the teachers to keep.
        """
        versions = set(versions)
        self.teachers.keep_only(versions)
        self.state_storage.keep_only(versions)
        self._owners.keep_only(versions)
        self._pending.clear()

    def prefetch(self, requests: Sequence[TeacherRequest | None]) -> None:
        """Prefetches the states of the ranks' next micro-batches; all ranks call this in the same order.

        Args:
            requests: one entry a data-parallel rank, equal on all of them; None: no teacher.
        """
        self.teachers.allocate_buffers()
        future = self.teachers.background.submit(lambda: self._prepare(requests))
        if self._forward.is_last_stage:
            self._pending.add(requests[self.teachers.ranks.rank], future)

    def states(self, version: Version, batch: Batch) -> TeacherStates:
        """Waits for the states of a prefetched micro-batch.

        Args:
            version: the teacher.
            batch: this rank's micro-batch.

        Returns:
            Decoder states (B, T, E), 0 on padding, and projection (V, E).
        """
        return self._pending.pop(version, batch, self.prefetch)

    def models(self) -> list[torch.nn.Module]:
        """Lists the teachers on this rank's device.

        Returns:
            At most two models, or two stages of models.
        """
        return self.teachers.models()

    def report(self) -> dict[str, float]:
        """Returns metrics since the last report.

        Returns:
            By metric key: sentences computed for each sentence that was served; bytes of cached states in this rank's
            memory, or in that of the last stage of its pipeline.
        """
        computed = self._computed_sentences / max(1, self._served_sentences)
        self._served_sentences = self._computed_sentences = 0
        used_bytes = self._owners.used_bytes(self.teachers.ranks.rank)
        return {
            metric_keys.MEMORY_TEACHER_STATES: float(min(used_bytes, self.plan.memory_bytes)),
            metric_keys.TEACHER_COMPUTED: computed,
        }

    def _prepare(self, requests: Sequence[TeacherRequest | None]) -> TeacherStates | None:
        """Answers this rank's request, in the background; None where it has none, or on the stages before the last."""
        rank, last = self.teachers.ranks.rank, self._forward.is_last_stage
        blocks = self._read_own_blocks(requests)
        lookups = [None if request is None else self._look_up(request) for request in requests]
        teacher = self.teachers.fetch([self._fetch_request(lookup) for lookup in lookups])
        own_lookup, not_admitted_RW = lookups[rank], None
        if own_lookup is not None:
            not_admitted_RW = self._compute_missing(teacher, own_lookup, blocks)
        self._assign_owners(lookups, blocks)
        if not last:
            return None
        received = exchange_rows(self.plan, self._owners, lookups, blocks, self.teachers.ranks, self.teachers.device)
        if own_lookup is None or teacher is None:
            return None
        bytes_RW = assemble_rows(
            self.plan, self._owners, own_lookup, blocks, received, not_admitted_RW, self.teachers.ranks
        )
        length = self.plan.blocks[own_lookup.request.pair].length[own_lookup.request.sentence]
        dtype = next(teacher.parameters()).dtype
        states_BTE = padded_states(bytes_RW, length, self._fp8, dtype, self.teachers.device)
        return states_BTE, self._forward.projection_VE(teacher)

    def _look_up(self, request: TeacherRequest) -> CacheLookup:
        """Finds out what of a request is cached, as far as the table of owners tells."""
        block_of = self.plan.blocks[request.pair].block_of[request.sentence]
        admitted_B = block_of < self.plan.admitted[request.pair]
        blocks = np.unique(block_of[admitted_B])
        owners = self._owners.of(request.version, request.pair)
        return CacheLookup(request, admitted_B, blocks[owners[blocks] == NO_OWNER])

    def _fetch_request(self, lookup: CacheLookup | None) -> FetchRequest | None:
        """Says what a rank needs of its teacher: all where something must be computed, the projection for the loss."""
        if lookup is None or (lookup.is_complete and not self._forward.is_last_stage):
            return None
        return FetchRequest(lookup.request.version, projection_only=lookup.is_complete)

    def _read_own_blocks(self, requests: Sequence[TeacherRequest | None]) -> dict[BlockKey, Tensor]:
        """Reads what any rank needs of this rank's cache; blocks that were lost lose their owner on every rank."""
        blocks: dict[BlockKey, Tensor] = {}
        lost: list[BlockKey] = []
        for request in requests if self._forward.is_last_stage else ():
            for key in () if request is None else self._own_keys(request):
                if key in blocks:
                    continue
                rows_RW = self.state_storage.get(key)
                if rows_RW is None:
                    lost.append(key)
                else:
                    blocks[key] = rows_RW
        if self.plan.disk_bytes and any(requests):
            lost_by_owner = gather_lost(
                lost, self._forward.all_ranks, self._forward.num_stages, self.teachers.ranks.size, self.teachers.device
            )
            for owner, keys in enumerate(lost_by_owner):
                for key in keys:
                    self._owners.release(key, owner)
        return blocks

    def _own_keys(self, request: TeacherRequest) -> list[BlockKey]:
        """Lists the blocks of a request that this rank has cached."""
        block_of = self.plan.blocks[request.pair].block_of[request.sentence]
        blocks = np.unique(block_of[block_of < self.plan.admitted[request.pair]])
        owned = blocks[self._owners.of(request.version, request.pair)[blocks] == self.teachers.ranks.rank]
        return [BlockKey(request.version, request.pair, int(block)) for block in owned]

    def _compute_missing(
        self, teacher: torch.nn.Module | None, lookup: CacheLookup, blocks: dict[BlockKey, Tensor]
    ) -> Tensor | None:
        """Computes new blocks, into ``blocks``, and gives the states of sentences whose blocks are not admitted."""
        request = lookup.request
        for number in lookup.new_blocks:
            key = BlockKey(request.version, request.pair, int(number))
            blocks[key] = self._compute(teacher, request.pair, self.plan.blocks[request.pair].sentences[key.block])
        self._served_sentences += len(request.sentence)
        if lookup.admitted_B.all():
            return None
        return self._compute(teacher, request.pair, request.sentence[~lookup.admitted_B])

    def _compute(self, teacher: torch.nn.Module | None, pair: int, sentence: Ints) -> Tensor:
        """Computes states, one sentence after another: (R, W) on the CPU; no rows on stages before the last."""
        assert teacher is not None
        self._computed_sentences += len(sentence)
        batch = to_device(self._collate(pair, sentence), self.teachers.device)
        hidden_BTE = self._forward.states(teacher, batch)
        if hidden_BTE is None:
            return torch.empty(0, self.plan.bytes_per_row, dtype=torch.uint8)
        length = self.plan.blocks[pair].length[sentence]
        rows_RE = torch.cat([hidden_BTE[i, : int(n)] for i, n in enumerate(length)])
        return encode(rows_RE, self._fp8).cpu()

    def _assign_owners(self, lookups: Sequence[CacheLookup | None], blocks: dict[BlockKey, Tensor]) -> None:
        """Gives each new block to the first rank that has computed it and has room; that rank stores it."""
        for rank, lookup in enumerate(lookups):
            if lookup is None:
                continue
            for number in lookup.new_blocks:
                key = BlockKey(lookup.request.version, lookup.request.pair, int(number))
                stored_here = self._forward.is_last_stage and rank == self.teachers.ranks.rank
                if self._owners.assign(key, rank) and stored_here:
                    self.state_storage.put(key, blocks[key])
