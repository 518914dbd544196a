"""Words, masks, noise and permutations: by hand, by rate, and as functions of their seed alone."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnmt_ds.batch import EOS, PAD
from mnmt_ds.data.denoising import (
    ConcurrentTask,
    DaeTask,
    MassTask,
    MlmTask,
    NoisedSentence,
    apply_noise,
    collate_noised,
)
from mnmt_ds.data.feistel_permutation import draw_items, permute_positions
from mnmt_ds.data.framing import FramingSettings, frame_of
from mnmt_ds.data.masking import MaskSettings, mask_fragment, mask_words
from mnmt_ds.data.monolingual_pool import BlockPool, PoolPart, SentencePool
from mnmt_ds.data.noise import NoiseSettings, add_noise, infill_spans
from mnmt_ds.data.word_boundaries import WordBoundaries

PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "▁the",
    "▁cat",
    "s",
    ",",
    "▁",
    "新",
    "しい",
    "OME",
    "▁ไทย",
    "ภาษา",
    "ิ",
    "▁GN",
]
PIECES += [f"▁w{i}" for i in range(200)]
NAMES = [*PIECES, "<mask>", "__fr__"]
TOKENIZER = cast(
    Any, SimpleNamespace(piece=NAMES.__getitem__, size=len(NAMES), mask=len(PIECES), piece_count=len(PIECES))
)
WORDS = WordBoundaries(TOKENIZER)
MASK = WORDS.mask
FRAME = frame_of(FramingSettings(encoder_langtok_position="end"), MASK + 1, MASK + 1)


def ids(text: str) -> np.ndarray:
    return np.array([NAMES.index(piece) for piece in text.split()])


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("▁the ▁cat s , ▁the", [0, 1, 1, 1, 2]),  # a word and what hangs on it
        ("▁ 新 しい OME", [0, 0, 1, 2]),  # no spaces: every piece; a bare ▁ goes with what follows; Latin begins anew
        ("▁ไทย ภาษา ิ ▁cat s", [0, 1, 1, 2, 2]),  # a combining mark never begins a word
        ("▁GN OME 新", [0, 0, 1]),
        ("s s ▁cat", [0, 0, 1]),  # a sentence that does not begin with ▁
        ("▁cat s </s> ▁cat", [0, 0, -1, 1]),  # a block: the end symbol between is no word
    ],
)
def test_words_by_hand(text: str, numbers: list[int]) -> None:
    assert WORDS.numbers(ids(text)).tolist() == numbers


def test_the_end_symbol_may_be_a_word() -> None:
    assert WORDS.numbers(ids("▁cat s </s> OME s </s>"), end_is_word=True).tolist() == [0, 0, 1, 2, 2, 3]
    assert WORDS.numbers(ids("</s> 新 </s> </s>"), end_is_word=True).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("task", [ConcurrentTask(), MlmTask(ratio=0.3)])
def test_the_end_of_a_sentence_is_predicted_as_often_as_any_word(task: Any) -> None:
    """As in the released code: 30 % of the words, ends among them; the tag stands where the drawn end was."""
    pieces, ends = ids("▁the ▁cat s </s> ▁the ▁GN"), 0  # 6 words with both ends
    for seed in range(600):
        row = apply_noise(pieces, task, WORDS, random(seed), end_is_word=True)
        assert row.encoder_target is not None and len(row.source) == 6 and len(row.encoder_target) == 7
        ends += int(row.encoder_target[6] == EOS)
        batch = collate_noised([row], FRAME)
        assert batch.encoder_target_BS is not None
        assert batch.source_BS[0].tolist() == [*row.source, MASK + 1]
        assert batch.encoder_target_BS[0].tolist() == row.encoder_target.tolist()
        if isinstance(task, ConcurrentTask):
            assert batch.target_BT.tolist() == batch.encoder_target_BS.tolist()
            assert batch.decoder_BT[0].tolist() == [MASK + 1, *pieces]
    assert ends / 600 == pytest.approx(0.3, abs=0.05)
    plain = [apply_noise(pieces, task, WORDS, random(seed)) for seed in range(50)]
    assert not any(row.target[-1] == EOS for row in plain)


def test_the_cut_at_the_shortest_with_ends_by_the_authors_rule() -> None:
    """Their items end in </s>: min over sentences of (pieces + 1) places count, on both sides."""
    rows, losses = [], []
    for size in (3, 6):
        ended = np.append(np.arange(4, 4 + size), EOS)
        rows.append(NoisedSentence(ended[:-1], ended[:-1], ended, ended))
        losses.append(np.linspace(0.5, 0.5 + 0.25 * size, size + 1))  # a made-up loss of each place
    theirs = sum(float(row[: min(len(row) for row in losses)].sum()) for row in losses)
    found = {}
    for counts_tag in (False, True):
        batch = collate_noised(rows, FRAME, cut_to_shortest=True, cut_counts_tag=counts_tag)
        assert batch.encoder_target_BS is not None
        counted = (batch.target_BT != PAD).numpy()
        assert (counted == (batch.encoder_target_BS != PAD).numpy()).all()
        found[counts_tag] = sum(float(row[counted[i, : len(row)]].sum()) for i, row in enumerate(losses))
    assert theirs == pytest.approx(7.0) and found == pytest.approx({True: 7.0, False: 4.5})


def test_masking_takes_whole_words_at_the_rates() -> None:
    """10,000 words of two pieces: 30 % chosen; of those 10 % stay, 10 % random, 80 % <mask>; both pieces alike."""
    pieces = np.tile(ids("▁cat s ▁the s"), 10)
    chosen = stay = replaced = masked = 0
    for seed in range(500):
        noisy, hit = mask_words(pieces, WORDS, MaskSettings(), random(seed))
        first, second = hit.reshape(-1, 2).T
        assert (first == second).all()
        assert (noisy[~hit] == pieces[~hit]).all()
        chosen += int(first.sum())
        gone = (noisy == MASK).reshape(-1, 2)
        assert (gone[:, 0] == gone[:, 1]).all()
        masked += int(gone[:, 0].sum())
        same = (noisy == pieces).reshape(-1, 2).all(1) & first
        stay += int(same.sum())
        replaced += int((first & ~same & ~gone[:, 0]).sum())
    assert chosen == pytest.approx(3000, abs=60)
    assert masked / chosen == pytest.approx(0.8, abs=0.03)
    assert stay / chosen == pytest.approx(0.1, abs=0.02)
    assert replaced / chosen == pytest.approx(0.1, abs=0.02)


def test_the_number_of_masked_words_is_right_on_average() -> None:
    """floor(0.3 * 5 + U) is 1 or 2, half and half."""
    counts = [
        int(mask_words(ids("▁the ▁cat ▁the ▁cat ▁the"), WORDS, MaskSettings(), random(s))[1].sum()) for s in range(400)
    ]
    assert set(counts) == {1, 2}
    assert np.mean(counts) == pytest.approx(1.5, abs=0.08)


def test_random_words_are_ordinary_pieces() -> None:
    noisy, hit = mask_words(np.tile(ids("▁cat"), 1000), WORDS, MaskSettings(keep=0, random=1), random())
    assert hit.sum() == pytest.approx(300, abs=1)
    assert noisy[hit].min() >= 4 and noisy[hit].max() < MASK and len(set(noisy[hit])) > 50


def test_mass_hides_one_fragment() -> None:
    pieces = np.arange(4, 24)
    starts = set()
    for seed in range(60):
        noisy, hit = mask_fragment(pieces, WORDS, MaskSettings(ratio=0.5, keep=0, random=0), random(seed))
        place = np.flatnonzero(hit)
        assert len(place) == 10 and place[-1] - place[0] == 9
        assert (noisy[hit] == MASK).all() and (noisy[~hit] == pieces[~hit]).all()
        starts.add(int(place[0]))
    assert len(starts) > 8


def test_infilling_by_hand() -> None:
    """A share of 0.35 of 100 words goes into spans, each one <mask>; the others stay in order."""
    words = [np.array([i]) for i in range(4, 104)]
    gone, masks = [], 0
    for seed in range(100):
        noised = np.concatenate(infill_spans(words, MASK, NoiseSettings(), random(seed)))
        others = noised[noised != MASK]
        assert (np.diff(others) > 0).all()
        gone.append(100 - len(others))
        masks += int((noised == MASK).sum())
    assert max(gone) <= 36 and np.mean(gone) == pytest.approx(34, abs=1.5)
    assert 2.5 < sum(gone) / masks < 4.5


def test_each_noise_alone() -> None:
    words = np.arange(16, 116)
    none = dict(infill=0.0, permute_sentences=False)
    masked = add_noise(words, WORDS, NoiseSettings(**none, mask=0.2), random())
    assert len(masked) == 100 and (masked == MASK).sum() == pytest.approx(20, abs=10)
    deleted = add_noise(words, WORDS, NoiseSettings(**none, delete=0.2), random())
    assert set(deleted) < set(words) and len(deleted) == pytest.approx(80, abs=10)
    moved = add_noise(words, WORDS, NoiseSettings(**none, permute=3), random())
    assert sorted(moved) == words.tolist() and 0 < np.abs(moved - words).max() <= 3
    block = ids("▁the </s> ▁cat s </s> ▁GN")
    orders = {tuple(add_noise(block, WORDS, NoiseSettings(infill=0.0), random(seed))) for seed in range(40)}
    assert len(orders) == 6 and all(sorted(order) == sorted(block) for order in orders)
    assert add_noise(words, WORDS, NoiseSettings(**none), random()).tolist() == words.tolist()


def test_a_concurrent_batch_has_the_same_targets_on_both_sides_at_the_same_places() -> None:
    """Every masked piece of every sentence counts, the long one's last included; nothing else does."""
    sentences = [ids("▁the ▁cat s ▁the"), np.tile(ids("▁the ▁cat"), 20)]
    task = ConcurrentTask(ratio=0.9, keep=0.0, random=0.0)
    rows = [apply_noise(pieces, task, WORDS, random(seed)) for seed, pieces in enumerate(sentences)]
    batch = collate_noised(rows, FRAME)
    assert batch.encoder_target_BS is not None
    assert batch.encoder_target_BS.tolist() == batch.target_BT.tolist()
    hit = (batch.source_BS == MASK) & (batch.source_BS != PAD)
    assert ((batch.target_BT != PAD) == hit).all()
    assert batch.tokens == int(hit.sum()) and int(hit[1, 4:].sum()) > 25
    for row, pieces in enumerate(sentences):
        size = len(pieces)
        assert batch.decoder_BT[row, : size + 1].tolist() == [MASK + 1, *pieces]  # tag, then the clean sentence
        assert int(batch.source_BS[row, size]) == MASK + 1  # the tag stands where </s> would
    cut = collate_noised(rows, FRAME, cut_to_shortest=True)
    assert int((cut.target_BT != PAD).sum()) == int(hit[:, :4].sum()) < batch.tokens


def test_the_cut_may_count_the_tag() -> None:
    """Sentences of 4 and 8 pieces that all count: 4 + 4 places up to the shortest's end, 4 + 5 with its tag."""
    rows = []
    for size in (4, 8):
        pieces = np.tile(ids("▁the ▁cat"), size // 2)
        rows.append(NoisedSentence(pieces, pieces, np.append(pieces, PAD), pieces))
    for counts_tag, expected in ((False, 4 + 4), (True, 4 + 5)):
        batch = collate_noised(rows, FRAME, cut_to_shortest=True, cut_counts_tag=counts_tag)
        assert batch.encoder_target_BS is not None
        assert int((batch.target_BT != PAD).sum()) == int((batch.encoder_target_BS != PAD).sum()) == expected
        assert batch.tokens == expected


def test_a_tag_at_the_start_moves_the_encoders_targets() -> None:
    frame = frame_of(FramingSettings(encoder_langtok_position="start"), MASK + 1, MASK + 1)
    batch = collate_noised([apply_noise(ids("▁the ▁cat s ▁the"), ConcurrentTask(ratio=0.9), WORDS, random())], frame)
    assert batch.encoder_target_BS is not None
    assert batch.encoder_target_BS[0, 1:-1].tolist() == batch.target_BT[0, :-1].tolist()


def test_what_the_other_tasks_predict() -> None:
    pieces = ids("▁the ▁cat s ▁the ▁cat ▁cat")
    dae = apply_noise(pieces, DaeTask(), WORDS, random())
    assert (
        dae.target.tolist() == [*pieces, EOS] and dae.decoder.tolist() == pieces.tolist() and dae.encoder_target is None
    )
    mlm = collate_noised([apply_noise(pieces, MlmTask(ratio=0.5), WORDS, random())], FRAME)
    assert mlm.decoder_BT.tolist() == [[MASK + 1]] and mlm.target_BT.tolist() == [[PAD]]
    assert mlm.encoder_target_BS is not None and mlm.tokens == int((mlm.encoder_target_BS != PAD).sum()) > 1
    mass = apply_noise(pieces, MassTask(), WORDS, random(1))
    hit = mass.target[:-1] != PAD
    assert hit.sum() == 3 and (mass.target[:-1][hit] == pieces[hit]).all()
    assert (mass.decoder == np.where(hit, pieces, MASK)).all()


def test_noise_of_paper_3s_scripts() -> None:
    """DAE: 30 % of the words, of which 10 % become random pieces; MASS: whole words anywhere, all of them <mask>."""
    words = np.tile(ids("▁cat s"), 2000)
    noisy = apply_noise(words, DaeTask(infill=0.0, mask=0.3, random=0.1), WORDS, random()).source
    masked, other = (noisy == MASK).reshape(-1, 2), ((noisy != MASK) & (noisy != words)).reshape(-1, 2)
    assert (masked[:, 0] == masked[:, 1]).all() and masked[:, 0].mean() == pytest.approx(0.27, abs=0.02)
    assert other.any(1).mean() == pytest.approx(0.03, abs=0.01)
    mass = apply_noise(words, MassTask(hides="words", ratio=0.3, keep=0, random=0), WORDS, random())
    hit = mass.target[:-1] != PAD
    assert hit.mean() == pytest.approx(0.3, abs=0.001) and (mass.source == np.where(hit, MASK, words)).all()
    assert (mass.decoder == np.where(hit, words, MASK)).all()
    assert np.flatnonzero(hit)[-1] - np.flatnonzero(hit)[0] > 2 * hit.sum()  # no fragment


def test_empty_and_tiny_sentences() -> None:
    for pieces in (ids("▁the"), np.zeros(0, np.int64)):
        for task in (ConcurrentTask(), MlmTask()):
            for end_is_word in (False, True):
                row = apply_noise(pieces, task, WORDS, random(), end_is_word)
                assert isinstance(row, NoisedSentence) and len(row.source) == len(pieces)
    for task in (DaeTask(), MassTask()):
        assert isinstance(apply_noise(ids("▁the"), task, WORDS, random()), NoisedSentence)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5])
def test_a_ratio_outside_0_and_1_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"ratio"):
        ConcurrentTask(ratio=ratio)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 1 << 40))
def test_a_feistel_permutation_is_one(size: int, seed: int) -> None:
    assert sorted(permute_positions(np.arange(size), size, seed)) == list(range(size))


def test_drawn_items_do_not_depend_on_the_cuts() -> None:
    all_at_once = draw_items(1000, 3500, 0, 7, "fr")
    parts = [draw_items(1000, 700, offset, 7, "fr") for offset in range(0, 3500, 700)]
    assert np.concatenate(parts).tolist() == all_at_once.tolist()
    assert sorted(all_at_once[:1000]) == list(range(1000)) == sorted(all_at_once[1000:2000])
    assert (
        all_at_once[:1000].tolist() != all_at_once[1000:2000].tolist() != draw_items(1000, 1000, 1000, 8, "fr").tolist()
    )
    assert np.abs(np.corrcoef(np.arange(1000), all_at_once[:1000])[0, 1]) < 0.1


def test_pools_and_blocks() -> None:
    texts = [[np.arange(10, 10 + n) for n in (3, 2, 4)], [np.arange(50, 50 + n) for n in (6, 1)]]
    lengths = [np.array([len(t) for t in text], np.int32) for text in texts]
    parts = [PoolPart(len(text), length.view, text.__getitem__) for text, length in zip(texts, lengths, strict=True)]
    pool = SentencePool(parts)
    assert len(pool) == 5
    assert pool.lengths(np.array([4, 0, 3])).tolist() == [1, 3, 6]
    assert [pool.pieces(i).tolist() for i in (2, 3, 4)] == [t.tolist() for t in (texts[0][2], texts[1][0], texts[1][1])]
    blocks = BlockPool(pool, 6)
    assert blocks.lengths(np.arange(len(blocks))).tolist() == [6, 4, 6, 1]
    assert blocks.pieces(0).tolist() == [10, 11, 12, EOS, 10, 11]
    assert [len(blocks.pieces(i)) for i in range(len(blocks))] == [6, 4, 6, 1]
