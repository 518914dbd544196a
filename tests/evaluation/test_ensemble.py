"""Ensembles: the mean of the models' probabilities against a slow search in float64; one model is plain search."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mnmt_ds.batch import BOS, EOS, PAD
from mnmt_ds.bench.decoding import make_peaked, random_sources
from mnmt_ds.cli.main import main
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.decoding.beam_search import BeamSettings, beam_search
from mnmt_ds.decoding.loading import join_ensemble, open_translator
from mnmt_ds.errors import UserError
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise
from mnmt_ds.models.weights import describe_model, read_weights, save_model
from tests.evaluation.runs import model_run
from tests.evaluation.test_translate_options import LINES, translate
from tests.tiny import write_corpus

START = 59
SHAPE = dict(d_model=32, heads=2, ffn=64, encoder_layers=1, decoder_layers=1)
both = pytest.mark.parametrize("implementation", ["torch", "native"])


def model_of(seed: int, **shape: int) -> Transformer:
    torch.manual_seed(seed)
    model = initialise(Transformer(ModelSettings(**{**SHAPE, **shape}), 60)).eval()
    make_peaked(model, end_pull=4.0, around=8)
    return model


MODELS = [(0, {}), (1, {"d_model": 48, "heads": 3, "decoder_layers": 2}), (2, {"max_positions": 64})]


@torch.no_grad()
def mean_log_prob(models: list[Transformer], source_S: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """float64 (V,): the logarithm of the mean probability of what follows these tokens."""
    probabilities = []
    for model in models:
        memory_BSD, mask_BS = model.encode(source_S[None])
        states_BTD = model.decode(torch.tensor([[START, *tokens]]), memory_BSD, mask_BS)
        probabilities.append((states_BTD[0, -1].double() @ model.head.weight.double().T).softmax(-1))
    return torch.stack(probabilities).mean(0).log()


def slow_search(
    models: list[Transformer], source_S: torch.Tensor, beam: int, limit: int
) -> list[tuple[list[int], float]]:
    """Beam search, a hypothesis at a time: fairseq's, which ends with the beam-th finished hypothesis."""
    running, finished = [([], 0.0)], list[tuple[list[int], float]]()
    for length in range(1, limit + 1):
        candidates = []
        for tokens, score in running:
            following = mean_log_prob(models, source_S, tokens)
            following[[BOS, PAD]] = -math.inf
            candidates += [([*tokens, v], score + float(p)) for v, p in enumerate(following)]
        candidates.sort(key=lambda each: -each[1])
        ended = [each[0][-1] == EOS or length == limit for each in candidates]
        finished += [
            (tokens[:-1] if tokens[-1] == EOS else tokens, score / length)
            for (tokens, score), over in list(zip(candidates, ended, strict=True))[:beam] if over
        ]  # fmt: skip
        running = [each for each, over in zip(candidates, ended, strict=True) if not over][:beam]
        if len(finished) >= beam or not running:
            break
    return sorted(finished, key=lambda each: -each[1])[:beam]


@both
@pytest.mark.parametrize("count", [2, 3])
def test_an_ensemble_is_that_of_float64(count: int, implementation: Any) -> None:
    """Models of several shapes; hypotheses in order, and their scores."""
    models = [model_of(seed, **shape) for seed, shape in MODELS[:count]]
    source_BS = random_sources(4, 60)
    found = beam_search(models, source_BS, START, BeamSettings(beam=3), [10] * 4, implementation=implementation)
    alone = beam_search(models[0], source_BS, START, BeamSettings(beam=3), [10] * 4, implementation=implementation)
    assert [row[0].tokens for row in found] != [row[0].tokens for row in alone]
    for row, source in zip(found, source_BS, strict=True):
        expected = slow_search(models, source[source != PAD], 3, 10)
        assert [each.tokens for each in row] == [tokens for tokens, _ in expected]
        assert [each.score for each in row] == pytest.approx([score for _, score in expected], abs=1e-4)


@both
def test_an_ensemble_of_one_is_plain_search(implementation: Any) -> None:
    """Bit for bit; and of a model with itself the hypotheses are its own."""
    model, source_BS = model_of(0), random_sources(9, 60)
    plain = beam_search(model, source_BS, START, BeamSettings(), [20] * 9, implementation=implementation)
    assert beam_search([model], source_BS, START, BeamSettings(), [20] * 9, implementation=implementation) == plain
    twice = beam_search([model, model], source_BS, START, BeamSettings(), [20] * 9, implementation=implementation)
    assert [[each.tokens for each in row] for row in twice] == [[each.tokens for each in row] for row in plain]


@pytest.fixture(scope="module")
def runs(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of other weights; the second has two students, one of which has the first run's weights."""
    directory = tmp_path_factory.mktemp("runs")
    first = model_run(directory / "one", tiny_corpus)
    weights, description = read_weights(first / "best"), describe_model(first / "best")
    torch.manual_seed(1)
    for student in ("a", "b"):
        save_model(directory / "two" / "students" / student / "best", weights, description)
        weights = {name: value + 0.2 * torch.randn_like(value) for name, value in weights.items()}
    open_translator(first).tokenizer.save_to(directory / "two" / "tokenizer")
    open_translator(first).tokenizer.save_to(directory / "two" / "students" / "tokenizer")
    return first, directory / "two"


def test_translate_by_an_ensemble(runs: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With --ensemble: all students of a run; in processes, too; with prefix, bans, n-best and draws."""
    one, two = runs
    b = two / "students" / "b"
    plain, other = translate(one, LINES), translate(b, LINES)
    joined = translate(one, LINES, "--ensemble", two)
    said = capfd.readouterr().err
    left_out = f"ensemble: {two}/students/a/best has the weights of {one}/best, and is left out"
    assert "ensemble of 2:" in said and left_out in said, "the same weights count once"
    command = ["translate", str(one), str(one.parent / "in"), "--pair", "bs-en"]
    assert main([*command, "--ensemble", str(two / "students" / "a"), "--ensemble", str(one)]) == 2
    [error] = capfd.readouterr().err.strip().splitlines()
    assert f"ensemble: {two}/students/a/best has the weights of {one}/best; {one}/best has the weights of" in error
    assert error.endswith("(update 7); name models with other weights")
    translate(two, LINES, "--ensemble", two)
    assert "left out" not in capfd.readouterr().err, "a run's student is one of its students"
    assert joined == translate(b, LINES, "--ensemble", one) and joined[2] == "" and joined not in (plain, other)
    assert translate(one, LINES, "--ensemble", b, "--jobs", "2") == joined
    best = translate(one, LINES, "--ensemble", b, "--nbest", "2", "--prefix", "river")
    assert len(best) == 6 and all(line.split(" ||| ")[1].startswith("river") for line in best)
    drawn = translate(one, LINES, "--ensemble", b, "--sample", "--seed", "3")
    assert drawn == translate(one, LINES, "--ensemble", b, "--sample", "--seed", "3") and drawn != joined
    translator, description = open_translator(one), describe_model(one / "best")
    other_side = "tgt" if description["framing"]["encoder_langtok"] == "src" else "src"
    for key, value, words in (
        ("tokenizer_hash", "0" * 64, "another tokenizer than"),
        ("framing", {**description["framing"], "encoder_langtok": other_side}, "another framing than"),
    ):
        with pytest.raises(UserError, match=words):
            join_ensemble(translator, [translator._replace(description={**description, key: value})])
    assert main(["translate", str(one), "--pair", "bs-en", "--ensemble", str(tmp_path / "none")]) == 2


def test_models_of_other_tokenizers_are_named(
    runs: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Tokenizers that were trained apart, of other sizes: one line with both models, before anything is translated."""
    corpus = write_corpus(tmp_path, seed=3)
    other = model_run(tmp_path / "other", corpus)
    assert Corpus.open(corpus).tokenizer.hash != open_translator(runs[0]).tokenizer.hash
    capfd.readouterr()
    assert main(["translate", str(runs[0]), "--pair", "bs-en", "--ensemble", str(other)]) == 2
    [error] = capfd.readouterr().err.strip().splitlines()
    assert error.endswith(f"{other}/best: another tokenizer than {runs[0]}/best; an ensemble has one")


def test_evaluate_an_ensemble(runs: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On the run's sets and on files: translate's lines, in a report of its own beside that of the model alone."""
    one, two = runs
    b = two / "students" / "b"
    assert main(["evaluate", str(one), "--pairs", "bs-en"]) == 0
    alone = (one / "evaluation" / "best.test.json").read_bytes()
    assert main(["evaluate", str(one), "--pairs", "bs-en", "--ensemble", str(b), "--against", str(one)]) == 0
    assert (one / "evaluation" / "best.test.json").read_bytes() == alone
    [report] = (one / "evaluation").glob("best.ensemble-*.test.json")
    texts = report.with_suffix("")
    sources = (texts / "bs-en.src").read_text().splitlines()
    hypotheses = (texts / "bs-en.hyp").read_text().splitlines()
    assert hypotheses == translate(one, sources, "--ensemble", b) != translate(one, sources)
    facts = json.loads(report.read_text())
    assert facts["model"].count("+") == 1 and facts["checkpoint"] == report.name.removesuffix(".test.json")
    assert "bs-en" in facts["against"]["bleu"]
    capfd.readouterr()
    files = [str(texts / "bs-en.src"), str(texts / "bs-en.ref")]
    out = tmp_path / "out"
    words = ["evaluate", str(one), "--pairs", "bs-en", "--ensemble", str(b), "--test", *files]
    assert main([*words, "-o", str(out)]) == 0
    assert "ensemble of 2:" in capfd.readouterr().err
    assert (out / "bs-en.hyp").read_text().splitlines() == hypotheses
    assert main([*words, "--hypotheses", files[1]]) == 2
    assert "--ensemble: no model translates with --hypotheses" in capfd.readouterr().err
    assert main(["evaluate", str(one), "--pairs", "bs-en", "--ensemble", str(one)]) == 2
    assert "has the weights of" in capfd.readouterr().err
    assert main(["evaluate", str(two), "--pairs", "hi-en,bs-en", "--ensemble", str(one)]) == 2
    assert "student a, whose dev loss is the lowest" in capfd.readouterr().err, "the mean over pairs"
