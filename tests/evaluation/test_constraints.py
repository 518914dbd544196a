"""Translations that hold given phrases: always, with the model's own scores; the best of all where all are tried."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnmt_ds.batch import BOS, EOS, PAD
from mnmt_ds.bench.decoding import random_sources
from mnmt_ds.cli.main import main
from mnmt_ds.decoding import translation
from mnmt_ds.decoding.beam_search import BeamSettings, beam_search
from mnmt_ds.decoding.constraints import PhraseMatcher, constrained, piece_count, search_width
from mnmt_ds.decoding.loading import open_translator
from tests.evaluation.runs import model_run
from tests.evaluation.test_beam_search import _log_prob
from tests.evaluation.test_ensemble import START, both, model_of
from tests.evaluation.test_translate_options import LINES, translate

PHRASES = [[(7,)], [(7, 8, 9), (20,)], [], [(5, 6), (6, 5), (31, 32)], [(4, 4, 5)]]


def holds(tokens: list[int], phrase: tuple[int, ...]) -> bool:
    return any(tuple(tokens[i : i + len(phrase)]) == phrase for i in range(len(tokens)))


phrase_lists = st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=4).map(tuple), min_size=1, max_size=3)


@settings(deadline=None)
@given(phrase_lists, st.lists(st.integers(3, 5), max_size=12))
def test_a_matcher_knows_what_tokens_hold(phrases: list[tuple[int, ...]], tokens: list[int]) -> None:
    """Overlapping and repeated phrases included; what it wants brings it further."""
    matcher = PhraseMatcher(phrases)
    state = matcher.state(tokens)
    sizes = [len(phrase) for phrase in matcher.phrases]
    assert [matched == size for matched, size in zip(state, sizes, strict=True)] == [
        holds(tokens, phrase) for phrase in matcher.phrases
    ]
    assert (matcher.met(state) == matcher.total) == all(holds(tokens, phrase) for phrase in phrases)
    wanted = matcher.wanted(state)
    assert bool(wanted) == (matcher.met(state) < matcher.total)
    if wanted:
        assert max(matcher.met(matcher.after(state, token)) for token in wanted) > matcher.met(state)
    assert PhraseMatcher(phrases, tokens).state([]) == state, "a prefix counts"


@both
@pytest.mark.parametrize("beam", [1, 2, 5])
def test_every_hypothesis_holds_its_phrases(beam: int, implementation: Any) -> None:
    """Also with fewer beams than pieces; its score is the model's own of these tokens; a free sentence is searched as
    ever."""
    model, source_BS = model_of(0), random_sources(len(PHRASES), 60)
    search, limits = BeamSettings(beam=beam), [16] * len(PHRASES)
    options: dict[str, Any] = {"banned": (BOS, PAD, 30), "implementation": implementation}
    found = beam_search(
        model, source_BS, START, search, limits, continuations=constrained(PHRASES, beam), **options
    )  # fmt: skip
    plain = beam_search(model, source_BS, START, search, limits, **options)
    for row, phrases, free, source in zip(found, PHRASES, plain, source_BS, strict=True):
        assert 1 <= len(row) <= beam and [each.score for each in row] == sorted(each.score for each in row)[::-1]
        assert len({tuple(each.tokens) for each in row}) == len(row)
        for each in row:
            assert all(holds(each.tokens, phrase) for phrase in phrases) and 30 not in each.tokens
            ended = [*each.tokens, EOS][:16]
            expected = _log_prob(model, source[source != PAD], [START], ended) / len(ended)
            assert each.score == pytest.approx(expected, abs=1e-4)
        if not phrases:
            assert [each.tokens for each in row] == [each.tokens for each in free]
            assert [each.score for each in row] == pytest.approx([each.score for each in free], abs=1e-5)


def test_hypotheses_that_are_kept_are_fewer_than_beams() -> None:
    """As ``translate`` searches: two beams more for each piece; the best is no worse than with the beams alone."""
    model, source_BS = model_of(0), random_sources(3, 60)
    phrases = [[(7, 8, 9), (20,)]] * 3
    scores = []
    for width in (2, search_width(2, piece_count(phrases[0]))):
        rows = beam_search(
            model, source_BS, START, BeamSettings(beam=2), [24] * 3, continuations=constrained(phrases, width),
            width=width,
        )  # fmt: skip
        assert all(1 <= len(row) <= 2 for row in rows)
        assert all(holds(each.tokens, phrase) for row in rows for each in row for phrase in phrases[0])
        scores.append(sum(row[0].score for row in rows))
    assert width == 10 and scores[1] > scores[0]


def test_a_wide_search_finds_the_best_of_all() -> None:
    """Of all translations of up to four tokens that hold the phrases; also the one that is found without them."""
    model, [source_S] = model_of(0), random_sources(1, 60)
    words = [EOS, 7, 8, 9, 20]
    banned = [v for v in range(60) if v not in words]
    best = {}
    for length in range(1, 5):
        for tokens in itertools.product(words[1:], repeat=length):
            ended = [*tokens, EOS][:4]
            best[tokens] = _log_prob(model, source_S, [START], ended) / len(ended)
    for phrases in ([(7,)], [(8, 9)], [(20,), (7, 8)], [(9,), (8,)]):
        choose = constrained([phrases], 400)
        [found] = beam_search(
            model, source_S[None], START, BeamSettings(beam=400, early_stopping=False), [4], banned,
            continuations=choose,
        )  # fmt: skip
        allowed = [(score, tokens) for tokens, score in best.items() if all(holds(list(tokens), p) for p in phrases)]
        assert (pytest.approx(found[0].score, abs=1e-4), tuple(found[0].tokens)) == max(allowed)
    [plain] = beam_search(model, source_S[None], START, BeamSettings(), [12])
    middle = tuple(plain[0].tokens[1:3])
    choose = constrained([[middle]], 9)
    [found] = beam_search(model, source_S[None], START, BeamSettings(beam=9), [12], continuations=choose)
    assert found[0].tokens == plain[0].tokens, "what it would say anyway stays"


@pytest.fixture(scope="module")
def run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_run(tmp_path_factory.mktemp("runs") / "one", tiny_corpus)


def test_translate_with_forced_texts(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """For all lines and by line; with prefix, bans, n-best, pivot, ensembles of one; what cannot be is one line."""
    forced = translate(run, LINES, "--force", "old river", "--force", "tree")
    assert forced[2] == "" and all("old river" in line and "tree" in line for line in forced[:2] + forced[3:])
    fields = [f"{LINES[0]}\tstone bird", LINES[1], "", f"{LINES[3]}\tcat\tblue fish"]
    by_line = translate(run, fields, "--constraints")
    assert "stone bird" in by_line[0] and "cat" in by_line[3] and "blue fish" in by_line[3]
    plain = translate(run, LINES)
    assert by_line[1:3] == plain[1:3] and translate(run, LINES, "--constraints") == plain
    assert translate(run, fields, "--constraints", "--jobs", "2") == by_line
    both_ways = translate(run, fields, "--constraints", "--force", "tree", "--prefix", "the", "--nbest", "2")
    texts = [line.split(" ||| ") for line in both_ways]
    assert len(texts) == 6 and all(text.startswith("the") and "tree" in text for _, text, _ in texts)
    assert all("stone bird" in text for number, text, _ in texts if number == "0")
    assert "tree" in translate(run, LINES[:1], "--force", "tree", "--pivot", "en", pair="bs-hi")[0]
    capfd.readouterr()
    tokenizer = open_translator(run).tokenizer
    piece = tokenizer.piece(tokenizer.encode("tree", "en")[0])
    command = ["translate", str(run), str(run.parent / "in"), "--pair", "bs-en", "--device", "cpu"]
    for options, message in (
        (["--force", "tree", "--ban", piece], f"phrase 'tree': its piece {piece} is banned"),
        (["--force", "☃"], "phrase '☃': holds what the vocabulary cannot write"),
        (["--force", " "], "an empty phrase"),
        (["--force", "tree", "--sample"], "--force: texts are forced into searched translations"),
        (["--constraints", "--split"], "--constraints: texts are forced into searched translations"),
        (["--force", "tree " * 80], "phrases of "),
    ):
        assert main([*command, *options]) == 2, options
        [error] = capfd.readouterr().err.strip().splitlines()
        assert message in error


def test_long_forced_texts_are_said_to_be_slow(
    run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From eight times as many beams on, once; batches have fewer sentences, so that they are no larger."""
    rows = list[int]()
    search = translation.beam_search
    monkeypatch.setattr(
        translation, "beam_search", lambda *given, **named: rows.append(len(given[1])) or search(*given, **named)
    )
    translate(run, LINES, "--force", "tree")
    assert "beams run" not in capfd.readouterr().err and rows == [3]
    pieces = len(open_translator(run).tokenizer.encode(text := "old river stone tree house", "en"))
    forced = translate(run, LINES[:1] * 9, "--force", text, "--beam", "1", "--batch-tokens", "180")
    width = 1 + 2 * pieces
    [line] = [line for line in capfd.readouterr().err.splitlines() if "beams run" in line]
    assert (
        f"--force: {pieces} pieces are forced, for which {width} beams run, not 1: {width} times the time, or more"
        in line
    )
    assert all(text in line for line in forced) and max(rows[1:]) < 9
    translate(run, ["derbo", f"derbo\t{text}", f"derbo\t{text}"], "--constraints", "--beam", "1")
    [line] = [line for line in capfd.readouterr().err.splitlines() if "beams run" in line]
    assert f"line 2: {pieces} pieces are forced" in line


def test_languages_without_spaces_force_none() -> None:
    from mnmt_ds.decoding.translation import encode_phrase

    class Pieces:
        """Two pieces, of which the first is a space."""

        def encode(self, text: str, language: str) -> list[int]:
            return [4, 5]

        def piece(self, id_: int) -> str:
            return {4: "▁", 5: "机"}[id_]

    assert encode_phrase(Pieces(), "机", "zh", ()) == (5,)  # type: ignore[arg-type]
    assert encode_phrase(Pieces(), "机", "xx", ()) == (4, 5)  # type: ignore[arg-type]
