"""Beam search against transformers' generate, token for token, and by hand."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnmt_ds.batch import EOS, PAD
from mnmt_ds.bench.decoding import hf_model, make_peaked, random_sources
from mnmt_ds.evaluation import incremental
from mnmt_ds.evaluation.beam_search import FOLD, SearchSettings, beam_search, largest, length_limits
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise

SHAPE = dict(d_model=32, heads=2, ffn=64, encoder_layers=2, decoder_layers=2)


def make_model(vocabulary: int, end_pull: float | None = 4.0, **shape: int) -> Transformer:
    torch.manual_seed(0)
    model = initialise(Transformer(ModelSettings(**{**SHAPE, **shape}), vocabulary)).eval()
    make_peaked(model, end_pull=end_pull, around=12)
    return model


def generate(model: Transformer, source_BS: torch.Tensor, start: int, limit: int, count: int, **options: Any) -> list:
    """transformers' hypotheses: (tokens, score) lists, best first."""
    output = hf_model(model, start).generate(
        input_ids=source_BS, attention_mask=(source_BS != PAD).long(), max_length=limit + 1, num_return_sequences=count,
        do_sample=False, return_dict_in_generate=True, output_scores=True, **options,
    )  # fmt: skip
    found = []
    for row in output.sequences[:, 1:].tolist():
        end = next((i for i, token in enumerate(row) if token in (EOS, PAD)), len(row))
        found.append(row[:end])
    pairs = list(zip(found, output.sequences_scores.tolist(), strict=True))
    return [pairs[i : i + count] for i in range(0, len(pairs), count)]


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("length_penalty", [0.6, 1.0, 1.8])
@pytest.mark.parametrize(("vocabulary", "start", "end_pull"), [(60, 59, 4.0), (20, EOS, None), (1500, 1499, 4.0)])
def test_equals_transformers_generate(
    vocabulary: int, start: int, end_pull: float | None, length_penalty: float, early_stopping: bool
) -> None:
    model, source_BS = make_model(vocabulary, end_pull), random_sources(12, vocabulary)
    ours = beam_search(
        model, source_BS, start, SearchSettings(length_penalty=length_penalty, early_stopping=early_stopping), [30] * 12
    )
    theirs = generate(
        model, source_BS, start, 30, 5, num_beams=5, length_penalty=length_penalty, early_stopping=early_stopping,
        suppress_tokens=[0, PAD],
    )  # fmt: skip
    for own, other in zip(ours, theirs, strict=True):
        assert [hypothesis.tokens for hypothesis in own] == [tokens for tokens, _ in other]
        assert [hypothesis.score for hypothesis in own] == pytest.approx([score for _, score in other], abs=1e-4)
    assert len({len(h.tokens) for hypotheses in ours for h in hypotheses}) >= 3, "hypotheses must end at many lengths"


@pytest.mark.parametrize("beam", [1, 2, 12])
def test_other_beams_and_plain_random_weights(beam: int) -> None:
    """Greedy (transformers takes another path there), narrow, and wider than the vocabulary's blocks."""
    torch.manual_seed(3)
    model = initialise(Transformer(ModelSettings(**SHAPE), 90)).eval()
    source_BS = random_sources(6, 90, seed=1)
    ours = beam_search(model, source_BS, 7, SearchSettings(beam=beam), [15] * 6)
    options = {} if beam == 1 else dict(early_stopping=True)
    output_BT = hf_model(model, 7).generate(
        input_ids=source_BS, attention_mask=(source_BS != PAD).long(), max_length=16, num_beams=beam, do_sample=False,
        suppress_tokens=[0, PAD], **options,
    )  # fmt: skip
    theirs = [[token for token in row[1:] if token not in (PAD, EOS)] for row in output_BT.tolist()]
    assert [hypotheses[0].tokens for hypotheses in ours] == theirs


def test_separate_source_embedding_equals_transformers() -> None:
    model = make_model(60, share_embeddings="decoder")  # type: ignore[arg-type]
    source_BS = random_sources(5, 60)
    ours = beam_search(model, source_BS, 59, SearchSettings(), [20] * 5)
    theirs = generate(model, source_BS, 59, 20, 1, num_beams=5, early_stopping=True, suppress_tokens=[0, PAD])
    assert [hypotheses[0].tokens for hypotheses in ours] == [hypotheses[0][0] for hypotheses in theirs]


def test_a_sentence_does_not_depend_on_its_batch() -> None:
    model, source_BS = make_model(60), random_sources(9, 60)
    together = beam_search(model, source_BS, 59, SearchSettings())
    for row, expected in zip(source_BS, together, strict=True):
        alone = beam_search(model, row[row != PAD][None], 59, SearchSettings())[0]
        assert [h.tokens for h in alone] == [h.tokens for h in expected]


def test_incremental_states_equal_the_whole_prefix_at_once() -> None:
    """Three steps with given parents; tidying the cache in between changes nothing."""
    model, source_BS = make_model(60), random_sources(2, 60)
    memory_BSD, mask_BS = model.encode(source_BS)
    cache = incremental.start_cache(model, source_BS, 2)
    paths = [[[59]], [[59]]]
    parents = [[[0, 0], [0, 0]], [[0, 0], [1, 1]], [[0, 0], [1, 0]]]
    tokens = [[[5, 6], [7, 8]], [[9, 10], [11, 12]], [[13, 14], [15, 16]]]
    for step in range(4):
        token_BW = torch.tensor([[path[-1] for path in sentence] for sentence in paths])
        hidden_ND, cache = incremental.decode_step(model, cache, token_BW)
        for i, path in enumerate(path for sentence in paths for path in sentence):
            row = i // token_BW.shape[1]
            whole_BTD = model.decode(torch.tensor([path]), memory_BSD[row : row + 1], mask_BS[row : row + 1])
            torch.testing.assert_close(hidden_ND[i], whole_BTD[0, -1], atol=1e-5, rtol=1e-5)
        if step < 3:
            cache = incremental.follow(cache, torch.tensor(parents[step]))
            if step == 1:
                before = cache.ancestors_BWP.shape[2]
                cache = incremental.keep(cache, torch.tensor([0, 1]))
                assert cache.ancestors_BWP.shape[2] < before, "a slot without descendants must go"
            paths = [
                [[*paths[row][parents[step][row][beam]], tokens[step][row][beam]] for beam in range(2)]
                for row in range(2)
            ]


def test_finished_sentences_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source_BS = make_model(1500), random_sources(16, 1500)
    widths: list[int] = []
    step = incremental.decode_step

    def counted(model: Transformer, cache: incremental.Cache, token_BW: torch.Tensor) -> tuple:
        widths.append(len(token_BW))
        return step(model, cache, token_BW)

    monkeypatch.setattr(incremental, "decode_step", counted)
    beam_search(model, source_BS, 1499, SearchSettings(), [30] * 16)
    assert widths[0] == 16 and widths[-1] < 16 and widths == sorted(widths, reverse=True)


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vocabulary 0..5 (2 ends): from 5: 4 (0.6), 3 (0.4); from 4: end (0.45), 3 (0.55); from 3: end (0.9), 4 (0.1)."""
    table_VV = torch.full((6, 6), 1e-30)
    for last_token, following in {5: {4: 0.6, 3: 0.4}, 4: {EOS: 0.45, 3: 0.55}, 3: {EOS: 0.9, 4: 0.1}}.items():
        for token, probability in following.items():
            table_VV[last_token, token] = probability
    model = make_model(6)
    last: list[torch.Tensor] = []
    step = incremental.decode_step

    def remember(model: Transformer, cache: incremental.Cache, token_BW: torch.Tensor) -> tuple:
        last.append(token_BW.flatten())
        return step(model, cache, token_BW)

    monkeypatch.setattr(incremental, "decode_step", remember)
    monkeypatch.setattr(incremental, "linear", lambda hidden_ND, weight, *_: table_VV[last[-1]].log())
    monkeypatch.setattr(incremental, "_apply", lambda module, x, relu=False: module(x).relu() if relu else module(x))
    source_BS = torch.tensor([[4, EOS]])
    # second step: [3 end] .36 and [4 3] .33 lead, so [4 end] .27 is no hypothesis; third: [4 3 end] .297
    found = beam_search(model, source_BS, 5, SearchSettings(beam=2), [4])[0]
    assert [hypothesis.tokens for hypothesis in found] == [[4, 3], [3]]
    assert [h.score for h in found] == pytest.approx([math.log(0.297) / 3, math.log(0.36) / 2], abs=1e-5)
    found = beam_search(model, source_BS, 5, SearchSettings(beam=2, length_penalty=0.0), [4])[0]
    assert [hypothesis.tokens for hypothesis in found] == [[3], [4, 3]]
    assert [h.score for h in found] == pytest.approx([math.log(0.36), math.log(0.297)], abs=1e-5)


@given(st.integers(1, 4), st.integers(1, 5 * FOLD), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_largest_is_topk(rows: int, columns: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    value_BX = torch.stack([torch.randperm(columns, generator=generator) for _ in range(rows)]).float()
    value_BX[value_BX < columns // 2] -= columns * 2.0
    count = min(count, columns)
    best, index = largest(value_BX, count)
    expected = value_BX.topk(count)
    assert torch.equal(best, expected.values) and torch.equal(index, expected.indices)


def test_length_limits() -> None:
    source_BS = torch.tensor([[5, 6, EOS], [5, EOS, PAD]])
    assert length_limits(source_BS, SearchSettings(max_length_ratio=1.5, max_length_plus=3), 1024).tolist() == [7, 6]
    assert length_limits(source_BS, SearchSettings(max_length_ratio=1.5, max_length_plus=3), 6).tolist() == [6, 6]


def test_limit_ends_hypotheses_without_an_end_symbol() -> None:
    model, source_BS = make_model(60, end_pull=0.0), random_sources(3, 60)
    found = beam_search(model, source_BS, 59, SearchSettings(), [4, 9, 6])
    lengths = [[len(hypothesis.tokens) for hypothesis in hypotheses] for hypotheses in found]
    assert lengths == [[4] * 5, [9] * 5, [6] * 5]
