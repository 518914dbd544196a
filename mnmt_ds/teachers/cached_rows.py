"""From cached blocks to the states of a micro-batch: rows are sent by their owners and put in the batch's order.

Letters: B sentences, T target tokens, E width, R rows (one a target token, sentence after sentence), W bytes of a row.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from mnmt_ds.distributed import RankGroup
from mnmt_ds.teachers.block_owners import NO_OWNER, BlockOwners
from mnmt_ds.teachers.cache_blocks import CachePlan, Ints
from mnmt_ds.teachers.state_codec import decode
from mnmt_ds.teachers.state_storage import BlockKey
from mnmt_ds.teachers.teacher_server import TeacherRequest

BlockRows = Mapping[BlockKey, Tensor]
"""Blocks that this rank has at hand, read from its cache or just computed: uint8 (R, W) on the CPU."""


class CacheLookup(NamedTuple):
    """Result of looking up one rank's request in the cache."""

    request: TeacherRequest
    admitted_B: NDArray[np.bool_]
    """Whether a sentence's block is one of those that are cached."""
    new_blocks: Ints
    """Admitted blocks that no rank has cached; this rank computes them."""

    @property
    def is_complete(self) -> bool:
        """Whether all states are cached, so that nothing has to be computed."""
        return not len(self.new_blocks) and bool(self.admitted_B.all())


def sentence_rows(plan: CachePlan, request: TeacherRequest, sentence: int, blocks: BlockRows) -> Tensor:
    """Cuts one sentence's states out of its block.

    Args:
        plan: how the pairs are cut into blocks.
        request: says teacher and pair.
        sentence: number of the sentence.
        blocks: holds the sentence's block.

    Returns:
        uint8 (R, W).
    """
    pair_blocks = plan.blocks[request.pair]
    start = int(pair_blocks.first_row[sentence])
    key = BlockKey(request.version, request.pair, int(pair_blocks.block_of[sentence]))
    return blocks[key][start : start + int(pair_blocks.length[sentence])]


def exchange_rows(
    plan: CachePlan,
    owners: BlockOwners,
    lookups: Sequence[CacheLookup | None],
    blocks: BlockRows,
    ranks: RankGroup,
    device: torch.device,
) -> dict[int, Tensor]:
    """Sends the rows that other ranks need of this rank's blocks, and receives those that it needs of theirs.

    Args:
        plan: how the pairs are cut into blocks.
        owners: who sends what.
        lookups: every data-parallel rank's request, equal on all of them.
        blocks: this rank's blocks that are needed.
        ranks: the data-parallel ranks, with a group that nothing else uses.
        device: of the rows while they are sent.

    Returns:
        uint8 (R, W) on the CPU, by the rank that sent them, in the order of this rank's sentences.
    """
    if ranks.size == 1:
        return {}
    row_counts = np.zeros((ranks.size, ranks.size), np.int64)  # [from, to]
    sent: list[Tensor] = []
    for receiver, lookup in enumerate(lookups):
        if lookup is None:
            continue
        request, pair_blocks = lookup.request, plan.blocks[lookup.request.pair]
        sentences = request.sentence[lookup.admitted_B]
        sender = owners.of(request.version, request.pair)[pair_blocks.block_of[sentences]]
        owned = sender != NO_OWNER
        np.add.at(row_counts[:, receiver], sender[owned], pair_blocks.length[sentences[owned]])
        row_counts[receiver, receiver] = 0
        if receiver != ranks.rank:
            sent += [sentence_rows(plan, request, number, blocks) for number in sentences[sender == ranks.rank]]
    if not row_counts.any():
        return {}
    width = plan.bytes_per_row
    received_counts = [int(n) for n in row_counts[:, ranks.rank]]
    outgoing_RW = torch.cat(sent) if sent else torch.empty(0, width, dtype=torch.uint8)
    incoming_RW = torch.empty(sum(received_counts), width, dtype=torch.uint8, device=device)
    dist.all_to_all_single(
        incoming_RW.view(-1),
        outgoing_RW.to(device).view(-1),
        output_split_sizes=[n * width for n in received_counts],
        input_split_sizes=[int(n) * width for n in row_counts[ranks.rank]],
        group=ranks.group,
    )
    return dict(enumerate(incoming_RW.cpu().split(received_counts)))


def assemble_rows(
    plan: CachePlan,
    owners: BlockOwners,
    lookup: CacheLookup,
    blocks: BlockRows,
    received: Mapping[int, Tensor],
    not_admitted_RW: Tensor | None,
    ranks: RankGroup,
) -> Tensor:
    """Concatenates the rows of a request's sentences.

    Args:
        plan: how the pairs are cut into blocks.
        owners: who has sent what.
        lookup: this rank's request.
        blocks: this rank's blocks that are needed.
        received: what ``exchange_rows`` gave.
        not_admitted_RW: states of the sentences whose blocks are not to be cached, in the request's order.
        ranks: the data-parallel ranks.

    Returns:
        uint8 (R, W) on the CPU.
    """
    request, pair_blocks = lookup.request, plan.blocks[lookup.request.pair]
    length = pair_blocks.length[request.sentence]
    owner_B = owners.of(request.version, request.pair)[pair_blocks.block_of[request.sentence]]
    waiting = {
        rank: iter(rows_RW.split(_integers(length[lookup.admitted_B & (owner_B == rank)])))
        for rank, rows_RW in received.items()
        if len(rows_RW)
    }
    not_admitted = iter(() if not_admitted_RW is None else not_admitted_RW.split(_integers(length[~lookup.admitted_B])))
    rows = []
    for number, owner, admitted in zip(request.sentence, owner_B, lookup.admitted_B, strict=True):
        if not admitted:
            rows.append(next(not_admitted))
        elif owner in (ranks.rank, NO_OWNER):
            rows.append(sentence_rows(plan, request, number, blocks))
        else:
            rows.append(next(waiting[int(owner)]))
    return torch.cat(rows)


def padded_states(bytes_RW: Tensor, length: Ints, fp8: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Decodes rows and pads them to a batch.

    Args:
        bytes_RW: rows of all sentences, one after another, as ``state_codec.encode`` wrote them.
        length: rows of each sentence, (B,).
        fp8: whether they are 8-bit floats.
        dtype: type of the result.
        device: device of the result.

    Returns:
        Decoder states (B, T, E); 0 where a sentence has ended.
    """
    rows_RE = decode(bytes_RW.to(device), fp8, dtype)
    states_BTE = rows_RE.new_zeros(len(length), int(length.max()), rows_RE.shape[1])
    filled_BT = torch.arange(int(length.max()))[None] < torch.from_numpy(length)[:, None]
    states_BTE[filled_BT.to(device)] = rows_RE
    return states_BTE


def _integers(values: Ints) -> list[int]:
    """Python's integers, which torch wants as sizes."""
    return [int(value) for value in values]
