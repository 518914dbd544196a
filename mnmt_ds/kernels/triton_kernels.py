# mypy: ignore-errors
"""Triton kernels of the fused loss: logits with their statistics in the product's epilogue, then one pass for the rest.

``triton_loss`` calls them; imported there alone, and only where Triton is. With TRITON_INTERPRET=1 they run on a CPU.
Letters: see types.py; R rows of logits, of student or teacher; P words of a row with its padding; S tiles of words.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-3.0e38)
"""Below all logits; finite, so that differences of two of them are no NaN."""
MAX, SUM, TEMPERED_SUM, TOTAL = (tl.constexpr(i) for i in range(4))
"""Rows of statistics: the largest logit, sums of exponentials at temperature 1 and at T, the sum of logits."""
GOLD = tl.constexpr(4)
"""The gold word's logit, a row that ``combine_kernel`` adds; it has logarithms of the sums."""


@triton.jit(do_not_specialize=["rows"])
def logits_kernel(
    hidden, weights, logits, parts, rows, words, width, temperature,
    TILE_R: tl.constexpr, TILE_V: tl.constexpr, TILE_D: tl.constexpr, GROUP: tl.constexpr, HALVES: tl.constexpr,
    TEMPERED: tl.constexpr,
):  # fmt: skip
    """Multiplies hidden states by a projection and writes, beside the logits, each tile's statistics of each row.

    Statistics are of the logits as they are stored, rounded. Programs stay, and take one tile after another: a group of
    rows of tiles goes over all words together, so that what they read stays in the cache.

    Args:
        hidden: descriptor (R, D).
        weights: descriptor (V, D).
        logits: descriptor (R, V), written.
        parts: float32 (4, S, R), written.
        rows: R.
        words: V.
        width: D.
        temperature: of TEMPERED_SUM.
        TILE_R: rows of a tile.
        TILE_V: words of a tile.
        TILE_D: width that is multiplied at once.
        GROUP: rows of tiles in a group.
        HALVES: 1 or 2: into how many parts a tile is cut for its statistics; S counts them.
        TEMPERED: whether TEMPERED_SUM is wanted.
    """
    row_tiles, word_tiles = tl.cdiv(rows, TILE_R), tl.cdiv(words, TILE_V)
    for tile in tl.range(tl.program_id(0), row_tiles * word_tiles, tl.num_programs(0), flatten=True):
        first = tile // (GROUP * word_tiles) * GROUP
        group = min(row_tiles - first, GROUP)
        within = tile % (GROUP * word_tiles)
        word_tile = within // group
        row, word = (first + within % group) * TILE_R, word_tile * TILE_V
        sums = tl.zeros((TILE_R, TILE_V), dtype=tl.float32)
        for at in range(0, width, TILE_D):
            sums = tl.dot(hidden.load([row, at]), weights.load([word, at]).T, sums)
        if HALVES == 2:  # statistics of half a tile at a time: those of a whole one do not fit into registers
            left, right = tl.split(tl.permute(tl.reshape(sums, (TILE_R, 2, TILE_V // 2)), (0, 2, 1)))
            _finish_tile(left, logits, parts, row, word, rows, words, temperature, TEMPERED)
            _finish_tile(right, logits, parts, row, word + TILE_V // 2, rows, words, temperature, TEMPERED)
        else:
            _finish_tile(sums, logits, parts, row, word, rows, words, temperature, TEMPERED)


@triton.jit
def _finish_tile(sums, logits, parts, row, word, rows, words, temperature, TEMPERED: tl.constexpr):
    """Stores a tile of logits and the statistics of its rows."""
    rounded = sums.to(logits.dtype)
    logits.store([row, word], rounded)
    exists = word + tl.arange(0, sums.shape[1])[None, :] < words
    z = tl.where(exists, rounded.to(tl.float32), LOWEST)
    row_R = row + tl.arange(0, sums.shape[0])
    tiles = tl.cdiv(words, sums.shape[1])
    to, step = parts + word // sums.shape[1] * rows + row_R, tiles * rows
    inside = row_R < tl.where(word < words, rows, 0)
    tl.store(to + TOTAL * step, tl.sum(tl.where(exists, z, 0.0), 1), mask=inside)
    most = tl.max(z, 1)
    tl.store(to + MAX * step, most, mask=inside)
    difference = (z - most[:, None]) * LOG2E
    tl.store(to + SUM * step, tl.sum(tl.exp2(difference), 1), mask=inside)
    if TEMPERED:
        tl.store(to + TEMPERED_SUM * step, tl.sum(tl.exp2(difference / temperature), 1), mask=inside)


@triton.jit(do_not_specialize=["rows", "tiles"])
def combine_kernel(
    parts, logits, gold, joined, rows, tiles, pitch, temperature, BLOCK: tl.constexpr, TEMPERED: tl.constexpr
):
    """Joins the tiles' statistics of each row and looks up the gold word's logit.

    Args:
        parts: float32 (4, S, R), of ``logits_kernel``.
        logits: (R, P).
        gold: int64 (R,).
        joined: float32 (5, R), written: MAX, logarithms of both sums, TOTAL, GOLD.
        rows: R.
        tiles: S.
        pitch: P.
        temperature: of TEMPERED_SUM.
        BLOCK: rows of a program.
        TEMPERED: whether there is a TEMPERED_SUM.
    """
    row_R = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, step = row_R < rows, tiles * rows
    most = tl.full((BLOCK,), LOWEST, dtype=tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    sums, tempered = tl.zeros((BLOCK,), dtype=tl.float32), tl.zeros((BLOCK,), dtype=tl.float32)
    for tile in range(tiles):
        at = parts + tile * rows + row_R
        new = tl.load(at + MAX * step, mask=inside, other=0.0)
        larger = tl.maximum(most, new)
        before, now = (most - larger) * LOG2E, (new - larger) * LOG2E
        sums = sums * tl.exp2(before) + tl.load(at + SUM * step, mask=inside, other=1.0) * tl.exp2(now)
        if TEMPERED:
            part = tl.load(at + TEMPERED_SUM * step, mask=inside, other=1.0)
            tempered = tempered * tl.exp2(before / temperature) + part * tl.exp2(now / temperature)
        total += tl.load(at + TOTAL * step, mask=inside, other=0.0)
        most = larger
    word_R = tl.load(gold + row_R, mask=inside, other=0)
    gold_R = tl.load(logits + row_R.to(tl.int64) * pitch + word_R, mask=inside, other=0.0).to(tl.float32)
    to = joined + row_R
    tl.store(to + MAX * rows, most, mask=inside)
    tl.store(to + SUM * rows, tl.log(sums), mask=inside)
    if TEMPERED:
        tl.store(to + TEMPERED_SUM * rows, tl.log(tempered), mask=inside)
    tl.store(to + TOTAL * rows, total, mask=inside)
    tl.store(to + GOLD * rows, gold_R, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def gradient_kernel(
    logits, teacher_logits, joined, teacher_joined, gold, weight, teacher_weight, gate, kd, agree, rows, words,
    pitch, temperature, smoothing, scale,
    BLOCK: tl.constexpr, TEACHER: tl.constexpr, TEMPERED: tl.constexpr, WRITE: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """Replaces a row of logits by the loss's gradient; on the way it finds what the logs say of the teacher.

    Args:
        logits: (R, P), read; written where WRITE.
        teacher_logits: (R, P).
        joined: float32 (5, R), of ``combine_kernel``.
        teacher_joined: the same of the teacher.
        gold: int64 (R,).
        weight: float32 (R,) of the gold term.
        teacher_weight: float32 (R,).
        gate: float32 (R,).
        kd: float32 (R,), written: T^2 * CE(teacher / T, student / T).
        agree: uint8 (R,), written: whether teacher and student favour the same word, of equal ones the first.
        rows: R.
        words: V.
        pitch: P.
        temperature: T.
        smoothing: of the gold term.
        scale: all gradients are multiplied by it.
        BLOCK: words at once.
        TEACHER: whether there is one.
        TEMPERED: whether T is not 1.
        WRITE: whether the gradient is wanted.
        LARGEST: magnitude that a gradient is cut to; 0: none.
    """
    row = tl.program_id(0)
    start = row.to(tl.int64) * pitch
    most, log_sum = tl.load(joined + MAX * rows + row), tl.load(joined + SUM * rows + row)
    log_sum_at_T = log_sum
    if TEMPERED:
        log_sum_at_T = tl.load(joined + TEMPERED_SUM * rows + row)
    gold_word = tl.load(gold + row)
    own = tl.load(weight + row) * scale
    teachers = 0.0
    if TEACHER:
        teacher_most = tl.load(teacher_joined + MAX * rows + row)
        if TEMPERED:
            teacher_log_sum = tl.load(teacher_joined + TEMPERED_SUM * rows + row)
        else:
            teacher_log_sum = tl.load(teacher_joined + SUM * rows + row)
        if WRITE:
            teachers = tl.load(teacher_weight + row) * tl.load(gate + row) * scale * temperature
    cross = tl.zeros((BLOCK,), dtype=tl.float32)
    favourite, teachers_favourite = tl.full((BLOCK,), words, dtype=tl.int32), tl.full((BLOCK,), words, dtype=tl.int32)
    for first in range(0, words, BLOCK):
        word = first + tl.arange(0, BLOCK)
        exists = word < words
        z = tl.load(logits + start + word, mask=exists, other=0.0).to(tl.float32) - most
        if TEACHER:
            y = tl.load(teacher_logits + start + word, mask=exists, other=0.0).to(tl.float32) - teacher_most
            favourite = tl.minimum(favourite, tl.where(exists & (z == 0.0), word, words))
            teachers_favourite = tl.minimum(teachers_favourite, tl.where(exists & (y == 0.0), word, words))
            if TEMPERED:
                y = y / temperature
            q = tl.exp2((y - teacher_log_sum) * LOG2E)
            cross += tl.where(exists, q * z, 0.0)
        if WRITE:
            p = tl.exp2((z - log_sum) * LOG2E)
            if TEMPERED:
                dz = own * p + teachers * (tl.exp2((z / temperature - log_sum_at_T) * LOG2E) - q)
            elif TEACHER:
                dz = (own + teachers) * p - teachers * q
            else:
                dz = own * p
            dz -= own * smoothing / words
            dz = tl.where(word == gold_word, dz - own * (1.0 - smoothing), dz)
            if LARGEST:
                dz = tl.clamp(dz, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)
            tl.store(logits + start + word, dz.to(logits.dtype.element_ty), mask=exists)
    if TEACHER:
        expected = tl.sum(cross, 0)
        tl.store(kd + row, temperature * temperature * (log_sum_at_T - expected / temperature))
        tl.store(agree + row, (tl.min(favourite, 0) == tl.min(teachers_favourite, 0)).to(tl.uint8))
