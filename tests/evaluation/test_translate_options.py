"""What ``mnmt-ds translate`` can be asked for: line by line, pivots, prefixes, bans, parts of long lines, draws."""

import io
import os
import threading
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from mnmt_ds.batch import PAD
from mnmt_ds.bench.decoding import make_peaked, random_sources
from mnmt_ds.cli.main import main
from mnmt_ds.decoding.beam_search import BeamSettings, beam_search
from mnmt_ds.decoding.loading import open_translator
from mnmt_ds.decoding.long_text import join_parts, split_long
from mnmt_ds.decoding.sampling import keep_likely, sampler
from mnmt_ds.errors import UserError
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise
from mnmt_ds.models.weights import describe_model, read_weights, save_model
from tests.evaluation.runs import model_run

LINES = ["derbo eulbbo", "hsifbo", "", "eulbbo hsifbo derbo"]


@pytest.fixture(scope="module")
def run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_run(tmp_path_factory.mktemp("runs") / "one", tiny_corpus)


def translate(run: Path, lines: list[str], *options: Any, pair: str = "bs-en") -> list[str]:
    source, target = run.parent / "in", run.parent / "out"
    source.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    arguments = ["translate", run, source, "--pair", pair, "-o", target, "--device", "cpu", "--jobs", "1", *options]
    assert main([str(argument) for argument in arguments]) == 0
    return target.read_text(encoding="utf-8").split("\n")[:-1]


def test_a_line_is_translated_before_the_next_one_comes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = translate(run, LINES)
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    monkeypatch.setattr("sys.stdin", os.fdopen(in_read, "r"))
    monkeypatch.setattr("sys.stdout", os.fdopen(out_write, "w"))
    command = ["translate", str(run), "--pair", "bs-en", "--interactive", "--device", "cpu"]
    codes: list[int] = []
    worker = threading.Thread(target=lambda: codes.append(main(command)), daemon=True)
    worker.start()
    with os.fdopen(out_read, "r") as answers, os.fdopen(in_write, "w") as questions:
        for line, wanted in zip(LINES, expected, strict=True):
            questions.write(f"{line}\n")
            questions.flush()
            assert answers.readline() == f"{wanted}\n"
    worker.join(60)
    assert codes == [0]


def test_a_line_that_is_refused_ends_no_session(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong with it: an empty line in its place, and one line that says why; the exit code is 2 then."""
    expected = translate(run, LINES)
    good = expected[0].encode()
    lines = [LINES[0].encode(), b"x\t\xe2\x98\x83", b"\xff", b"x\t" + b"tree " * 80, b"derbo " * 99, LINES[0].encode()]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n".join(lines))))
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out := io.BytesIO()))
    command = ["translate", str(run), "--pair", "bs-en", "--interactive", "--constraints", "--device", "cpu"]
    assert main(command) == 2
    answers = out.getvalue().split(b"\n")
    assert answers[0] == answers[5] == good and answers[1:4] == [b""] * 3 and answers[4] and answers[6:] == [b""]
    said = [line for line in capfd.readouterr().err.splitlines() if "line" in line and "beams run" not in line]
    assert len(said) == 4, said
    assert "phrase '☃': holds what the vocabulary cannot write; leave it out; line 2 has no translation" in said[0]
    assert "standard input:3: byte 1 (0xff) is not UTF-8" in said[1] and "line 3 has no translation" in said[1]
    assert "phrases of " in said[2] and "line 4 has no translation: an empty line is written" in said[2]
    assert "line 5 has more pieces than the model has positions" in said[3]


def test_pivot(run: Path) -> None:
    through = translate(run, translate(run, LINES, pair="bs-en"), pair="en-hi")
    assert translate(run, LINES, "--pivot", "en", pair="bs-hi") == through
    assert main(["translate", str(run), "--pair", "bs-en", "--pivot", "en"]) == 2


def test_prefix_and_banned_pieces(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What follows a prefix is what the model says after these pieces; the scores of a beam stay in order."""
    plain = translate(run, LINES)
    begun = translate(run, LINES, "--prefix", "river stone")
    assert begun[2] == "" and all(line.startswith("river stone") for line in begun[:2] + begun[3:])
    translator = open_translator(run)
    first = translator.tokenizer.encode(plain[0], "en")
    own = translate(run, LINES[:1], "--prefix", translator.tokenizer.decode(first[:2]))
    assert own[0].startswith(translator.tokenizer.decode(first[:2]))
    piece = translator.tokenizer.piece(translator.tokenizer.encode(plain[0], "en")[0])
    without = translate(run, LINES[:1], "--ban", piece)[0]
    assert piece not in [translator.tokenizer.piece(id_) for id_ in translator.tokenizer.encode(without, "en")]
    assert main(["translate", str(run), os.devnull, "--pair", "bs-en", "--ban", "no such piece"]) in (0, 2)
    source = run.parent / "in"
    assert main(["translate", str(run), str(source), "--pair", "bs-en", "--ban", "no such piece"]) == 2
    assert "piece 'no such piece': not in the vocabulary" in capfd.readouterr().err


def test_long_lines_are_split_or_said(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sentences = ["derbo eulbbo hsifbo.", "hsifbo derbo!", "eulbbo?"]
    line = " ".join(sentences * 20)
    translate(run, ["derbo", line])
    assert "1 line(s) had more pieces than the model has positions, the first is line 2" in capfd.readouterr().err
    whole = translate(run, ["derbo", line, "", "eulbbo " * 70], "--split")
    assert "had more pieces" not in capfd.readouterr().err and len(whole) == 4 and whole[2] == ""
    translator = open_translator(run)
    room = translator.model.settings.max_positions - translator.frame("bs-en").source_extra
    parts = split_long(line, "bs", translator.tokenizer, room)
    assert len(parts) > 1 and " ".join(parts) == line and all(part[-1] in ".!?" for part in parts)
    assert whole[1] == join_parts(translate(run, parts), "en")
    assert translate(run, ["derbo"], "--split") == whole[:1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab. cd. ef.", ["ab. cd.", "ef."]),
        ("ab “cd.” efg", ["ab “cd.”", "efg"]),
        ("一二三。四五六七八。九十", ["一二三。", "四五六七八。九十"]),
        ("abcdefghijklmnop", ["abcdefgh", "ijklmnop"]),
        ("aaaa bbbb cccc d", ["aaaa bbbb", "cccc d"]),
        ("v1.2 of its", ["v1.2", "of its"]),
        ("  ", ["  "]),
    ],
)
def test_parts(text: str, expected: list[str]) -> None:
    class Characters:
        """A piece a character that is no space."""

        def encode(self, text: str, language: str) -> list[int]:
            return [1] * len(text.replace(" ", ""))

    assert split_long(text, "xx", Characters(), 8) == expected  # type: ignore[arg-type]
    assert join_parts(["甲", "", "乙"], "zho_Hans") == "甲乙" and join_parts(["a", "", "b"], "en") == "a b"


def test_draws_follow_the_models_distribution() -> None:
    """The first token's frequencies are the model's probabilities; scores are those of the drawn tokens."""
    torch.manual_seed(0)
    shape = ModelSettings(d_model=32, heads=2, ffn=64, encoder_layers=1, decoder_layers=1)
    model = initialise(Transformer(shape, 12)).eval()
    make_peaked(model, end_pull=None, around=2)
    source = random_sources(1, 12)
    rows, settings = 4000, BeamSettings(beam=1, sample_temperature=1.0)
    drawn = beam_search(
        model, source.expand(rows, -1), 11, settings, [1] * rows, (), continuations=sampler(settings, "x")
    )
    memory_BSD, mask_BS = model.encode(source)
    with torch.inference_mode():
        log_prob = model.head(model.decode(torch.tensor([[11]]), memory_BSD, mask_BS)).log_softmax(-1)[0, 0]
    tokens = [row[0].tokens[0] if row[0].tokens else 2 for row in drawn]
    frequency = torch.bincount(torch.tensor(tokens), minlength=12) / rows
    assert (frequency - log_prob.exp()).abs().max() < 0.03
    assert [row[0].score for row in drawn] == pytest.approx([float(log_prob[token]) for token in tokens], abs=1e-4)
    again = beam_search(
        model, source.expand(9, -1), 11, settings, [9] * 9, (PAD,), continuations=sampler(settings, "x")
    )
    same = beam_search(model, source.expand(9, -1), 11, settings, [9] * 9, (PAD,), continuations=sampler(settings, "x"))
    assert again == same and len({tuple(row[0].tokens) for row in again}) > 3


@pytest.mark.parametrize("options", [["--beam", 2], ["--beam", 2, "--dtype", "bf16"], ["--sample", 1e-45]], ids=str)
def test_scores_that_are_not_finite_are_no_empty_translations(
    options: list[Any], run: Path, tiny_corpus: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Finite weights whose products are not, as of half precision."""
    assert translate(run, LINES[:1], *options)[0]
    overflowing = run.parent / "overflowing"
    if not overflowing.exists():
        model_run(overflowing, tiny_corpus)
    weights = read_weights(overflowing / "best")
    weights["encoder.0.attention.out.weight"].fill_(1e38)
    save_model((overflowing / "best").resolve(), weights, describe_model(overflowing / "best"))
    words = ["translate", overflowing, run.parent / "in", "--pair", "bs-en", "-o", run.parent / "out", *options]
    (run.parent / "out").write_text("before")
    assert main([str(word) for word in words]) == 2
    assert "a sentence of bs-en has no translation: the model's scores are not finite in" in capfd.readouterr().err
    assert (run.parent / "out").read_text() == "before"


def test_what_is_likely_is_kept() -> None:
    logit = torch.tensor([[0.5, 0.1, 0.3, 0.1]]).log()
    assert (keep_likely(logit, 2, 1.0) > -torch.inf).tolist() == [[True, False, True, False]]
    assert (keep_likely(logit, 0, 0.5) > -torch.inf).tolist() == [[True, False, False, False]]
    assert (keep_likely(logit, 0, 0.6) > -torch.inf).tolist() == [[True, False, True, False]]
    assert torch.equal(keep_likely(logit, 0, 1.0), logit)


def test_sampled_translations(run: Path) -> None:
    options = ("--sample", "--seed", 3)
    assert translate(run, LINES, *options) == translate(run, LINES, *options) != translate(run, LINES)
    assert translate(run, LINES, "--sample", "--top-k", 1) == translate(run, LINES, "--beam", 1)
    several = translate(run, LINES, *options, "--nbest", 4)
    assert [line.split(" ||| ")[0] for line in several] == ["0"] * 4 + ["1"] * 4 + ["3"] * 4
    assert len(set(several)) > 6


def test_a_pair_by_other_codes_of_its_languages(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = translate(run, ["derbo eulbbo"])
    capsys.readouterr()
    assert translate(run, ["derbo eulbbo"], pair="bos_Latn-eng") == expected
    assert "not trained on" not in capsys.readouterr().err
    translate(run, ["derbo eulbbo"], pair="eng-bos")
    assert "not trained on eng-bos" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["translate", "none", "--top-k", "3"], "--top-k 3: says how translations are drawn; add --sample"),
        (["translate", "none", "--top-p", "0.5"], "--top-p 0.5: says how translations are drawn; add --sample"),
        (
            ["synthesise", "none", "TEXT", "--direction", "back", "-o", "x", "--seed", "7"],
            "--seed 7: says how",
        ),
        (["translate", "none", "--split", "--prefix", "The"], "--prefix: it would begin every part of a line"),
        (["translate", "none", "--split", "9", "--prefix", "The"], "--prefix: it would begin every part of a line"),
        (["evaluate", "none", "--comet-python", "python"], "--comet-python python: runs COMET; give its model"),
        (
            ["evaluate", ".", "--test", "TEXT", "gone"],
            "gone: cannot be read (No such file or directory); mend",
        ),
    ],
    ids=str,
)
def test_options_without_effect(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Said before any model is opened, in one line, with what is to be done."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "TEXT").write_text("a\n", encoding="utf-8")
    assert main([*words, "--pairs" if words[0] == "evaluate" else "--pair", "bs-en"]) == 2
    [error] = capfd.readouterr().err.strip().splitlines()
    assert message in error and "recipe" not in error


def test_a_phrase_is_named_without_the_lines_end() -> None:
    from mnmt_ds.batch import UNK
    from mnmt_ds.decoding.translation import encode_phrase

    class Unknown:
        """Knows no piece."""

        def encode(self, text: str, language: str) -> list[int]:
            return [UNK]

    with pytest.raises(UserError, match=r"^phrase 'ab': "):
        encode_phrase(cast(Any, Unknown()), " ab ", "en", ())
