"""Translations without the unknown piece: the best of all that remain, held to a brute force."""

import itertools
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from mnmt_ds.batch import BOS, EOS, PAD, UNK
from mnmt_ds.bench.decoding import make_peaked, random_sources
from mnmt_ds.cli.main import main
from mnmt_ds.decoding.beam_search import BeamSettings, beam_search
from mnmt_ds.decoding.loading import open_translator
from mnmt_ds.decoding.translation import untranslatable_ids
from mnmt_ds.file_integrity import read_checked_json, write_checked_json
from mnmt_ds.files import sha256
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise
from tests.evaluation.runs import model_run

VOCABULARY, START, LIMIT = 7, 6, 4


def every_translation(model: Transformer, source_BS: torch.Tensor, pieces: list[int]) -> list[tuple[list[int], float]]:
    """All token sequences of these pieces that end by the end symbol or at the limit, with their scores, best first."""
    memory_BSD, mask_BS = model.encode(source_BS)
    found = []
    for length in range(1, LIMIT + 1):
        ends = [EOS] if length < LIMIT else [EOS, *pieces]
        for head in itertools.product(pieces, repeat=length - 1):
            for tail in ends:
                tokens = [*head, tail]
                states = model.decode(torch.tensor([[START, *tokens[:-1]]]), memory_BSD, mask_BS)
                log_probs = model.head(states).log_softmax(-1)[0]
                score = float(log_probs[range(length), tokens].sum()) / length
                found.append(([token for token in tokens if token != EOS], score))
    return sorted(found, key=lambda row: -row[1])


@pytest.mark.parametrize("implementation", ["torch", "native"])
@torch.inference_mode()
def test_best_translation_without_unknown_pieces(implementation: Literal["torch", "native"]) -> None:
    """Wide enough, the search finds all translations in the order of the brute force; unbanned, it takes UNK."""
    torch.manual_seed(0)
    shape = ModelSettings(d_model=32, heads=2, ffn=64, encoder_layers=1, decoder_layers=1)
    model = initialise(Transformer(shape, VOCABULARY)).eval()
    make_peaked(model, end_pull=None, around=2)
    settings = BeamSettings(beam=40, early_stopping=False, ban_unknown=True)
    sources = random_sources(6, VOCABULARY)
    with_unknown = 0
    for source in sources:
        row_BS = source[source != PAD][None]
        expected = every_translation(model, row_BS, [4, 5])
        found = beam_search(model, row_BS, START, settings, [LIMIT], (BOS, PAD, UNK, START), implementation)[0]
        assert [h.score for h in found] == pytest.approx([score for _, score in expected], abs=1e-4)
        assert found[0].tokens == expected[0][0]
        free = beam_search(model, row_BS, START, settings, [LIMIT], (BOS, PAD, START), implementation)[0]
        assert free[0].tokens == every_translation(model, row_BS, [UNK, 4, 5])[0][0]
        with_unknown += UNK in free[0].tokens
    assert with_unknown, "some best translation must hold UNK, or banning it changes nothing"


def test_translate_and_evaluate(tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A model that likes UNK best: the mark stands in its lines, and in none with --ban-unknown; nor in evaluate's."""
    run = model_run(tmp_path / "run", tiny_corpus)
    weights = run / "best" / "model.safetensors"
    state = load_file(weights)
    state["embedding.weight"][UNK] = 4 * state["embedding.weight"].abs().max()
    state["decoder_norm.weight"].zero_()  # decoder states are all ones, whatever was learnt
    state["decoder_norm.bias"].fill_(1)
    save_file(state, weights)
    path = run / "best" / "model.json"
    write_checked_json(path, {**read_checked_json(path), "sha256": sha256(weights)})
    (tmp_path / "in").write_text("derbo eulbbo\nhsifbo\n")
    assert main(["translate", str(run), str(tmp_path / "in"), "--pair", "bs-en"]) == 0
    assert capfd.readouterr().out.count("⁇") >= 2
    assert main(["translate", str(run), str(tmp_path / "in"), "--pair", "bs-en", "--ban-unknown"]) == 0
    out = capfd.readouterr().out
    assert "⁇" not in out and len(out.splitlines()) == 2
    assert main(["evaluate", str(run), "--pairs", "bs-en", "--ban-unknown"]) == 0
    assert "⁇" not in (run / "evaluation" / "best.test" / "bs-en.hyp").read_text()


def test_the_setting_bans() -> None:
    class Small:
        piece_count, size = 9, 12

    allowed: Any = Small()
    assert untranslatable_ids(allowed, BeamSettings()) == (BOS, PAD, 9, 10, 11)
    assert untranslatable_ids(allowed, BeamSettings(ban_unknown=True)) == (BOS, PAD, UNK, 9, 10, 11)


def test_untrained_pair_is_said_once(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """translate and export warn and go on; a trained pair is not warned about."""
    (tmp_path / "in").write_text("derbo\nhsifbo\n")
    translate = ["translate", str(run), str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    for command in (translate, ["export", str(run), str(tmp_path / "x")]):
        caplog.clear()
        assert main([*command, "--pair", "bs-fr"]) == 0
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert [
            line for line in warnings if "not trained on bs-fr (its pairs: bs-en, hi-en, fr-en)" in line
        ] == warnings
        assert len(warnings) == 1
    assert len((tmp_path / "out").read_text().splitlines()) == 2
    caplog.clear()
    assert main([*translate, "--pair", "bs-en"]) == 0
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.fixture(scope="module")
def run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_run(tmp_path_factory.mktemp("runs") / "one", tiny_corpus)


def test_whole_runs_of_students_and_of_single_pairs(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The student with the lowest dev loss on the pair translates, and is named; a model of the pair alone is found."""
    whole = tmp_path / "whole"
    for name, dev in (("a", {"bs-en": 2.0, "hi-en": 1.0}), ("b", {"bs-en": 1.5, "hi-en": 3.0})):
        shutil.copytree(run, whole / "students" / name, symlinks=True)
        path = whole / "students" / name / "best" / "model.json"
        write_checked_json(path, {**read_checked_json(path), "dev": dev})
    caplog.set_level("INFO")
    for pair, chosen in (("bs-en", "b"), ("hi-en", "a"), ("fr-en", "a"), ("", "a")):
        caplog.clear()
        assert open_translator(whole, pair=pair).directory == whole / "students" / chosen / "best"
        assert f"student {chosen}, whose dev loss" in caplog.text
    (tmp_path / "pairs").mkdir()
    shutil.copytree(run / "best", tmp_path / "pairs" / "best_bs-en")
    shutil.copytree(run / "tokenizer", tmp_path / "pairs" / "tokenizer")
    assert open_translator(tmp_path / "pairs", pair="bs-en").directory.name == "best_bs-en"
