"""Beam search against transformers' generate, token for token, and by hand."""

import math
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnmt_ds.batch import EOS, PAD
from mnmt_ds.bench.decoding import hf_model, make_peaked, random_sources
from mnmt_ds.data.framing import Frame
from mnmt_ds.decoding import incremental, native
from mnmt_ds.decoding.beam_search import BeamSettings, beam_search, length_limits
from mnmt_ds.decoding.incremental import FOLD_COLUMNS, folded_topk
from mnmt_ds.decoding.translation import make_batches
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


both = pytest.mark.parametrize("implementation", ["torch", "native"])
MODULES: dict[str, Any] = {"torch": incremental, "native": native}


def test_native_is_there() -> None:
    """The tests below mean something: this machine has a compiler."""
    assert native.is_supported(make_model(60))


@both
@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("length_penalty", [0.6, 1.0, 1.8])
@pytest.mark.parametrize(("vocabulary", "start", "end_pull"), [(60, 59, 4.0), (20, EOS, None), (1500, 1499, 4.0)])
def test_equals_transformers_generate(
    vocabulary: int, start: int, end_pull: float | None, length_penalty: float, early_stopping: bool,
    implementation: Literal["torch", "native"],
) -> None:  # fmt: skip
    model, source_BS = make_model(vocabulary, end_pull), random_sources(12, vocabulary)
    search = BeamSettings(length_penalty=length_penalty, early_stopping=early_stopping)
    ours = beam_search(model, source_BS, start, search, [30] * 12, implementation=implementation)
    theirs = generate(
        model, source_BS, start, 30, 5, num_beams=5, length_penalty=length_penalty, early_stopping=early_stopping,
        suppress_tokens=[0, PAD],
    )  # fmt: skip
    for own, other in zip(ours, theirs, strict=True):
        assert [hypothesis.tokens for hypothesis in own] == [tokens for tokens, _ in other]
        assert [hypothesis.score for hypothesis in own] == pytest.approx([score for _, score in other], abs=1e-4)
    assert len({len(h.tokens) for hypotheses in ours for h in hypotheses}) >= 3, "hypotheses must end at many lengths"


@both
@pytest.mark.parametrize("beam", [1, 2, 12])
def test_other_beams_and_plain_random_weights(beam: int, implementation: Literal["torch", "native"]) -> None:
    """Greedy (transformers takes another path there), narrow, and wider than the vocabulary's blocks."""
    torch.manual_seed(3)
    model = initialise(Transformer(ModelSettings(**SHAPE), 90)).eval()
    source_BS = random_sources(6, 90, seed=1)
    ours = beam_search(model, source_BS, 7, BeamSettings(beam=beam), [15] * 6, implementation=implementation)
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
    ours = beam_search(model, source_BS, 59, BeamSettings(), [20] * 5)
    theirs = generate(model, source_BS, 59, 20, 1, num_beams=5, early_stopping=True, suppress_tokens=[0, PAD])
    assert [hypotheses[0].tokens for hypotheses in ours] == [hypotheses[0][0] for hypotheses in theirs]


@both
def test_a_sentence_does_not_depend_on_its_batch(implementation: Literal["torch", "native"]) -> None:
    model, source_BS = make_model(60), random_sources(9, 60)
    together = beam_search(model, source_BS, 59, BeamSettings(), implementation=implementation)
    for row, expected in zip(source_BS, together, strict=True):
        alone = beam_search(model, row[row != PAD][None], 59, BeamSettings(), implementation=implementation)[0]
        assert [h.tokens for h in alone] == [h.tokens for h in expected]


@both
def test_incremental_states_equal_the_whole_prefix_at_once(implementation: str) -> None:
    """Three steps with given parents; tidying the cache in between changes nothing."""
    step_by_step = MODULES[implementation]
    model, source_BS = make_model(60), random_sources(2, 60)
    memory_BSD, mask_BS = model.encode(source_BS)
    cache = step_by_step.start_cache(model, source_BS, 2, 9)
    paths = [[[59]], [[59]]]
    parents = [[[0, 0], [0, 0]], [[0, 0], [1, 1]], [[0, 0], [1, 0]]]
    tokens = [[[5, 6], [7, 8]], [[9, 10], [11, 12]], [[13, 14], [15, 16]]]
    for step in range(4):
        token_BW = torch.tensor([[path[-1] for path in sentence] for sentence in paths])
        hidden_ND, cache = step_by_step.decode_step(model, cache, token_BW)
        for i, path in enumerate(path for sentence in paths for path in sentence):
            row = i // token_BW.shape[1]
            whole_BTD = model.decode(torch.tensor([path]), memory_BSD[row : row + 1], mask_BS[row : row + 1])
            torch.testing.assert_close(hidden_ND[i], whole_BTD[0, -1], atol=1e-5, rtol=1e-5)
        if step < 3:
            cache = step_by_step.reorder_beams(cache, torch.tensor(parents[step]))
            if step == 1:
                slots = cache.ancestors_BWP.shape[2] if implementation == "torch" else 0
                cache = step_by_step.select_sentences(cache, torch.tensor([0, 1]))
                if slots:
                    assert cache.ancestors_BWP.shape[2] < slots, "a slot without descendants must go"
            paths = [
                [[*paths[row][parents[step][row][beam]], tokens[step][row][beam]] for beam in range(2)]
                for row in range(2)
            ]


@both
def test_finished_sentences_leave_the_batch(
    monkeypatch: pytest.MonkeyPatch, implementation: Literal["torch", "native"]
) -> None:
    model, source_BS = make_model(1500), random_sources(16, 1500)
    widths: list[int] = []
    step = MODULES[implementation].decode_step

    def counted(model: Transformer, cache: Any, token_BW: torch.Tensor) -> tuple:
        widths.append(len(token_BW))
        return step(model, cache, token_BW)

    monkeypatch.setattr(MODULES[implementation], "decode_step", counted)
    beam_search(model, source_BS, 1499, BeamSettings(), [30] * 16, implementation=implementation)
    assert widths[0] == 16 and widths[-1] < 16 and widths == sorted(widths, reverse=True)


@both
def test_by_hand(monkeypatch: pytest.MonkeyPatch, implementation: Literal["torch", "native"]) -> None:
    """Vocabulary 0..5 (2 ends): from 5: 4 (0.6), 3 (0.4); from 4: end (0.45), 3 (0.55); from 3: end (0.9), 4 (0.1)."""
    model = make_model(6)
    model.head.weight.data.fill_(math.log(1e-30))  # a state is the last token's unit vector, so logits are log p
    for last, following in {5: {4: 0.6, 3: 0.4}, 4: {EOS: 0.45, 3: 0.55}, 3: {EOS: 0.9, 4: 0.1}}.items():
        for token, probability in following.items():
            model.head.weight.data[token, last] = math.log(probability)
    step = MODULES[implementation].decode_step

    def unit(model: Transformer, cache: Any, token_BW: torch.Tensor) -> tuple:
        return torch.nn.functional.one_hot(token_BW.flatten(), 32).float(), step(model, cache, token_BW)[1]

    monkeypatch.setattr(MODULES[implementation], "decode_step", unit)
    source_BS = torch.tensor([[4, EOS]])
    # second step: [3 end] .36 and [4 3] .33 lead, so [4 end] .27 is no hypothesis; third: [4 3 end] .297
    found = beam_search(model, source_BS, 5, BeamSettings(beam=2), [4], implementation=implementation)[0]
    assert [hypothesis.tokens for hypothesis in found] == [[4, 3], [3]]
    assert [h.score for h in found] == pytest.approx([math.log(0.297) / 3, math.log(0.36) / 2], abs=1e-5)
    sums = BeamSettings(beam=2, length_penalty=0.0)
    found = beam_search(model, source_BS, 5, sums, [4], implementation=implementation)[0]
    assert [hypothesis.tokens for hypothesis in found] == [[3], [4, 3]]
    assert [h.score for h in found] == pytest.approx([math.log(0.36), math.log(0.297)], abs=1e-5)


@given(st.integers(1, 4), st.integers(1, 5 * FOLD_COLUMNS), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_largest_is_topk(rows: int, columns: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    value_BX = torch.stack([torch.randperm(columns, generator=generator) for _ in range(rows)]).float()
    value_BX[value_BX < columns // 2] -= columns * 2.0
    count = min(count, columns)
    best, index = folded_topk(value_BX, count)
    expected = value_BX.topk(count)
    assert torch.equal(best, expected.values) and torch.equal(index, expected.indices)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 200), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_top_continuations_of_both_are_log_softmax_and_topk(
    batch: int, beams: int, vocabulary: int, count: int, seed: int
) -> None:
    torch.manual_seed(seed)
    model = Transformer(ModelSettings(**SHAPE), vocabulary).requires_grad_(False)
    torch.nn.init.normal_(model.head.weight)
    hidden_ND, score_BW = torch.randn(batch * beams, 32), torch.randn(batch, beams)
    banned = [0] if vocabulary > 2 else []
    count = min(count, beams * (vocabulary - len(banned)))
    log_prob = (hidden_ND @ model.head.weight.T).log_softmax(-1)
    log_prob[:, banned] = -torch.inf
    value, index = (log_prob.view(batch, beams, -1) + score_BW[:, :, None]).flatten(1).topk(count)
    for module in (incremental, native):
        found = module.top_continuations(module.project(model, hidden_ND), score_BW, count, banned)
        torch.testing.assert_close(found[0], value, atol=2e-5, rtol=1e-5)
        assert torch.equal(found[1] * vocabulary + found[2], index)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("threads", [1, 2])
def test_native_attention_for_every_width_of_a_head(heads: int, threads: int) -> None:
    """Widths 32 and 64 are compiled in, 8, 16 and 24 are not; rows that are no multiple of eight; two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for width in (heads * 8, heads * 24, heads * 32, heads * 64):
            model = make_model(60, None, d_model=width, heads=heads)
            source_BS = random_sources(7, 60)
            found = [beam_search(model, source_BS, 59, BeamSettings(), [19] * 7, implementation=name)
                     for name in ("torch", "native")]  # fmt: skip
            assert [[h.tokens for h in row] for row in found[0]] == [[h.tokens for h in row] for row in found[1]]
    finally:
        torch.set_num_threads(before)


def test_without_a_compiler_torch_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_library", lambda: None)
    model, source_BS = make_model(60), random_sources(3, 60)
    assert not native.is_supported(model)
    assert beam_search(model, source_BS, 59, BeamSettings()) == beam_search(
        model, source_BS, 59, BeamSettings(), implementation="torch"
    )


def test_half_precision_goes_through_torch() -> None:
    model = make_model(60).bfloat16()
    found = beam_search(model, random_sources(3, 60), 59, BeamSettings())
    assert not native.is_supported(model) and all(len(hypotheses) == 5 for hypotheses in found)


def test_length_limits() -> None:
    source_BS = torch.tensor([[5, 6, EOS], [5, EOS, PAD]])
    assert length_limits(source_BS, BeamSettings(max_length_ratio=1.5, max_length_plus=3), 1024).tolist() == [
        7,
        6,
    ]
    assert length_limits(source_BS, BeamSettings(max_length_ratio=1.5, max_length_plus=3), 6).tolist() == [6, 6]


def test_limit_ends_hypotheses_without_an_end_symbol() -> None:
    model, source_BS = make_model(60, end_pull=0.0), random_sources(3, 60)
    found = beam_search(model, source_BS, 59, BeamSettings(), [4, 9, 6])
    lengths = [[len(hypothesis.tokens) for hypothesis in hypotheses] for hypotheses in found]
    assert lengths == [[4] * 5, [9] * 5, [6] * 5]


def _log_prob(model: Transformer, source_S: torch.Tensor, start: list[int], tokens: list[int]) -> float:
    """What the model itself gives these tokens, of all its words."""
    memory_BSD, mask_BS = model.encode(source_S[None])
    states_BTD = model.decode(torch.tensor([start + tokens[:-1]]), memory_BSD, mask_BS)
    log_prob_TV = model.head(states_BTD)[0, len(start) - 1 :].log_softmax(-1)
    return float(log_prob_TV.gather(-1, torch.tensor(tokens)[:, None]).sum())


@both
@pytest.mark.parametrize("start", [[59], [59, 7]])
@torch.no_grad()
def test_an_empty_translation_is_one_like_any_other(start: list[int], implementation: Any) -> None:
    """Also right behind a forced tag, where CTranslate2 prunes the end symbol."""
    model = make_model(60, share_embeddings="decoder")  # type: ignore[arg-type]
    [source_S] = random_sources(1, 60)
    memory_BSD, mask_BS = model.encode(source_S[None])
    model.embedding.weight[EOS] = model.decode(torch.tensor([start]), memory_BSD, mask_BS)[0, -1]  # most probable there
    [found] = beam_search(model, source_S[None], start, BeamSettings(beam=4), [6], implementation=implementation)
    [empty] = [hypothesis for hypothesis in found if not hypothesis.tokens]
    assert empty.score == pytest.approx(_log_prob(model, source_S, start, [EOS]) / len(start), abs=1e-4)


@both
@torch.no_grad()
def test_a_ban_leaves_scores_as_they_are(implementation: Any) -> None:
    """Scores are the model's own log-probabilities; CTranslate2 shares a banned word's probability out."""
    model = make_model(60)
    [source_S] = random_sources(1, 60)
    [[free, *_]] = beam_search(model, source_S[None], 59, BeamSettings(), [12], implementation=implementation)
    banned = (0, PAD, free.tokens[0])
    [found] = beam_search(model, source_S[None], 59, BeamSettings(), [12], banned=banned, implementation=implementation)
    for hypothesis in found:
        ended = [*hypothesis.tokens, EOS]
        assert free.tokens[0] not in hypothesis.tokens
        expected = _log_prob(model, source_S, [59], ended[:12])
        assert hypothesis.score == pytest.approx(expected / len(ended[:12]), abs=1e-4)


def test_an_empty_source_has_no_translation() -> None:
    """CTranslate2 answers it with its prefix and a score of 0."""
    frame = Frame((), (EOS,), 59, ())
    translator: Any = SimpleNamespace(max_positions=256, tokenizer=None, frame=lambda pair: frame)
    batches = make_batches(translator, "aa-bb", [[], [5, 6], []], 100)
    assert [batch.positions for batch in batches] == [[1]]
