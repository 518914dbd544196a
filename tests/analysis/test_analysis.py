"""Paper 3's analyses by hand, in float64, over ranks, and as commands."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mnmt_ds.analysis import batches
from mnmt_ds.analysis.files import read_sensitivities
from mnmt_ds.analysis.pruning import pruned_weights, pruning_masks, pruning_order
from mnmt_ds.analysis.sensitivity import flatten, sensitivity, unflatten
from mnmt_ds.analysis.specificity import (
    correlations,
    mean_of_others,
    most_sensitive,
    sensitivity_spread,
    specificity,
)
from mnmt_ds.batch import PAD
from mnmt_ds.cli.main import main
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.framing import FramingSettings
from mnmt_ds.decoding.loading import open_translator
from mnmt_ds.methods.translation import translation_loss
from tests.evaluation.runs import model_run
from tests.spawn import on_ranks
from tests.unit.test_intra_distillation import student
from tests.unit.test_lssd import example


@pytest.fixture(scope="module")
def runs(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [model_run(folder / name, tiny_corpus, seed) for seed, name in enumerate(("plain", "id"))]


def call(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def test_sensitivity_is_equation_3_in_float64() -> None:
    """|theta dL/dtheta| of two batches, averaged; and to first order the change of the loss without a parameter."""
    model = student(0.0).double()
    one, other = example(), example()._replace(target_BT=torch.tensor([[9, 2, PAD, PAD], [5, 6, 7, 2]]), tokens=6)

    def loss(batch: Any) -> torch.Tensor:
        logits = model(batch.source_BS, batch.decoder_BT).decoder_BTD @ model.head.weight.T
        log = logits.log_softmax(-1)
        valid = batch.target_BT != PAD
        nll = -log.gather(-1, batch.target_BT.unsqueeze(-1)).squeeze(-1)
        return (0.9 * nll - 0.1 * log.mean(-1))[valid].sum() / valid.sum()

    found = sensitivity(model, [one, other], translation_loss(0.1, "reference"))
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, value in model.named_parameters():
        grads = [torch.autograd.grad(loss(batch), value, retain_graph=True)[0] for batch in (one, other)]
        wanted = sum((value * grad).abs() for grad in grads) / 2
        torch.testing.assert_close(found[name], wanted.float(), rtol=1e-5, atol=1e-9)
    bias = model.decoder_norm.bias
    with torch.no_grad():
        bias.normal_(std=1e-3)
        before = float(loss(one))
    single = sensitivity(model, [one], translation_loss(0.1, "reference"))["decoder_norm.bias"][3]
    with torch.no_grad():
        bias[3] = 0.0
        assert abs(float(loss(one)) - before) == pytest.approx(float(single), rel=0.02)


def test_flat_and_back() -> None:
    values = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor([9.0])}
    assert flatten(values).tolist() == [9.0, 0, 1, 2, 3, 4, 5]
    again = unflatten(flatten(values), values)
    assert all(torch.equal(again[name], values[name]) for name in values)


def test_all_but_a_language_is_mixed_batches_in_float64(tiny_corpus: Path) -> None:
    """Equation 4: gradients of sentences of several languages are summed before the absolute value is taken."""
    model = student(0.0).double()
    rows = [
        example(),
        example()._replace(target_BT=torch.tensor([[9, 2], [5, 6]]), decoder_BT=example().decoder_BT[:, :2], tokens=4),
    ]
    joined = batches.join_batches(rows)
    assert joined.tokens == 10 and joined.target_BT.shape == (4, 4) and joined.sentence_B.shape == (4,)
    found = sensitivity(model, [joined], translation_loss(0.1, "reference"))
    apart = [sensitivity(model, [row], translation_loss(0.1, "reference")) for row in rows]
    for name, value in model.named_parameters():
        grad = torch.zeros_like(value)
        for row in rows:  # one row and one token at a time, without padding
            for b in range(2):
                log = (model(row.source_BS, row.decoder_BT).decoder_BTD[b] @ model.head.weight.T).log_softmax(-1)
                for i in range(int((row.target_BT[b] != PAD).sum())):
                    loss = -0.9 * log[i, row.target_BT[b, i]] - 0.1 * log[i].mean()
                    grad += torch.autograd.grad(loss, value, retain_graph=True)[0]
        torch.testing.assert_close(found[name], (value * grad / 10).abs().float(), rtol=1e-5, atol=1e-9)
        mean = (6 * apart[0][name] + 4 * apart[1][name]) / 10
        assert bool((found[name] <= mean + 1e-7).all())
    total, means = (sum(float(row[name].sum()) for name in found) for row in (found, mean_by_hand(apart)))
    assert total < 0.99 * means  # they cancel somewhere, so a mean over languages is another figure


def mean_by_hand(parts: list[Any]) -> dict[str, torch.Tensor]:
    return {name: (6 * parts[0][name] + 4 * parts[1][name]) / 10 for name in parts[0]}


def test_mixed_batches_hold_all_other_pairs_by_their_shares(tiny_corpus: Path) -> None:
    corpus = Corpus.open(tiny_corpus)
    sources = batches.sources_of_pairs(corpus, FramingSettings(), ["bs-en", "fr-en", "hi-en"], 96, 64)
    tags = {pair: corpus.tokenizer.tag(pair[:2]) for pair in ("bs-en", "fr-en", "hi-en")}
    drawn = batches.mixed_batches(sources, "hi-en", 1000, 96, 1)
    counts = {pair: sum(int((b.source_BS[:, 0] == tag).sum()) for b in drawn) for pair, tag in tags.items()}
    assert counts == {"bs-en": 60, "fr-en": 240, "hi-en": 0}  # all of their text
    mixed = [batch for batch in drawn if len(set(batch.source_BS[:, 0].tolist())) == 2]
    assert len(mixed) > 0.6 * len(drawn)
    assert all(batch.tokens == int((batch.target_BT != PAD).sum()) for batch in drawn)
    languages = batches.sources_of_languages(corpus, FramingSettings(), ["bs-en", "fr-en", "hi-en"], 96, 64, 1)
    cd = batches.mixed_batches(languages, "fr", 8, 96, 1)
    assert len(cd) == 8 and all(batch.task == "cd" and batch.encoder_target_BS is not None for batch in cd)
    assert all(batch.encoder_target_BS.shape == batch.source_BS.shape for batch in cd)  # type: ignore[union-attr]


def test_specificity_by_hand() -> None:
    """Three languages, two parameters: (S - S of the others) / (S of the others + sigma); the others' mean."""
    S = torch.tensor([[4.0, 1.0], [1.0, 1.0], [3.0, 0.0]])
    others = torch.tensor([[2.0, 0.0], [4.0, 0.5], [1.0, 1.0]])
    given = [[1.0, 1e8], [-0.75, 1.0], [2.0, -1.0]]
    torch.testing.assert_close(specificity(S, others), torch.tensor(given))
    wanted = [[(4 - 2) / 2, (1 - 0.5) / 0.5], [(1 - 3.5) / 3.5, (1 - 0.5) / 0.5], [(3 - 2.5) / 2.5, (0 - 1) / 1]]
    torch.testing.assert_close(specificity(S, mean_of_others(S)), torch.tensor(wanted))
    tiny = torch.tensor([[1e-8], [0.0]])
    assert float(specificity(tiny, mean_of_others(tiny))[0, 0]) == pytest.approx(1.0)


def test_correlation_and_groups() -> None:
    maker = np.random.default_rng(0)
    S = torch.from_numpy(maker.random((3, 500)))
    torch.testing.assert_close(correlations(S), torch.from_numpy(np.corrcoef(S.numpy())))
    high_N = most_sensitive(S, 0.1)
    assert int(high_N.sum()) == 50
    assert float(S.mean(0)[high_N].min()) >= float(S.mean(0)[~high_N].max())


def test_spread() -> None:
    S = torch.cat([torch.arange(99.0), torch.tensor([1e6])]).repeat(2, 1)
    found = sensitivity_spread(S)
    assert found.mean == 49.0 and found.deviation == pytest.approx(np.std(np.arange(99), ddof=1))
    assert found.quantiles["0.5"] == 49.0


def test_pruning_order_and_masks() -> None:
    D = torch.tensor([0.5, -1.0, 3.0, -1.0, 0.0])
    order = pruning_order(D, torch.tensor([False, False, False, False, True]))
    assert order.tolist() == [1, 3, 0, 2]
    like = {"b": torch.zeros(2, 2), "a": torch.zeros(1)}
    stays = pruning_masks(order, 0.4, like)
    assert stays["a"].tolist() == [1] and stays["b"].tolist() == [[0, 1], [0, 1]]
    assert sum(int((part == 0).sum()) for part in pruning_masks(order, 1.0, like).values()) == 4  # what is kept is kept
    model = student(0.0)
    before = [value.clone() for value in model.parameters()]
    zeros = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    with pruned_weights(model, zeros):
        assert all(not value.any() for value in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def spread_over(run: str, corpus: str) -> list[float]:
    """A pair's sensitivities on this many ranks."""
    model = open_translator(Path(run)).model
    (source,) = batches.sources_of_pairs(Corpus.open(corpus), FramingSettings(), ["fr-en"], 96, 64)
    drawn = batches.random_batches(source, 9, 96, 1)
    assert len(drawn) == 9
    return [float(value.double().sum()) for value in sensitivity(model, drawn, translation_loss(0.1, "auto")).values()]


def test_ranks_share_the_batches(runs: list[Path], tiny_corpus: Path) -> None:
    alone = spread_over(str(runs[0]), str(tiny_corpus))
    for found in on_ranks(2, spread_over, str(runs[0]), str(tiny_corpus)):
        assert found == pytest.approx(alone, rel=1e-5)


def test_commands(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From sensitivities to pictures and numbers; what comes too early names what comes first."""
    assert call("analyse", "correlation", *runs, "-o", tmp_path) == 2
    assert "run mnmt-ds analyse sensitivity" in capsys.readouterr().err
    for task in ("translation", "cd"):
        options = ("--task", task, "--batches", 4, "--max-tokens", 96, "-o", tmp_path)
        assert call("analyse", "sensitivity", *runs, *options) == 0
    names, lists, like = read_sensitivities(runs[0], "best", "translation")
    assert names == ["bs-en", "fr-en", "hi-en"] and lists.shape == (3, sum(v.numel() for v in like.values()))
    assert bool((lists >= 0).all()) and bool((lists.sum(1) > 0).all())
    assert call("analyse", "specificity", *runs, "-o", tmp_path) == 0
    mixed = json.loads((tmp_path / "specificity.plain.json").read_text())
    assert call("analyse", "specificity", *runs, "--others", "mean", "-o", tmp_path) == 0
    mean = json.loads((tmp_path / "specificity.plain.json").read_text())
    assert (mixed["others"], mean["others"]) == ("mixed", "mean") and mixed["mean"]["fr-en"] > mean["mean"]["fr-en"]
    assert call("analyse", "correlation", *runs, "-o", tmp_path) == 0
    assert call("analyse", "prune", *runs, "--ratios", "0,0.9", "--beam", 1, "--split", "dev", "-o", tmp_path) == 0
    numbers = json.loads((tmp_path / "correlation.translation.json").read_text())
    assert set(numbers) == {"plain", "id"}
    assert numbers["id"]["low"]["pairs"]["bs-en"]["bs-en"] == pytest.approx(1.0)
    assert set(numbers["id"]["translation_and_cd"]) == {"bs-en", "hi-en", "fr-en"}
    assert set(json.loads((tmp_path / "prune.json").read_text())["plain"]) == {"0", "0.9"}
    for picture in ("distribution", "correlation.translation.low", "correlation.tasks", "prune", "specificity.plain"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG"), picture
    assert call("analyse", "prune", runs[0], "--ratios", "0,2") == 2
    half = ("--batches", 2, "--max-tokens", 96, "-o", tmp_path)
    assert call("analyse", "sensitivity", runs[0], "--others", "mean", *half) == 0
    capsys.readouterr()
    assert call("analyse", "specificity", runs[0], "-o", tmp_path) == 2
    assert "again, or give --others mean" in capsys.readouterr().err
    assert call("analyse", "sensitivity", runs[0], "--checkpoint", "none") == 2


def test_runs_that_results_cannot_tell_apart_or_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Numbers and pictures hold runs by their directories' names; losses of another tokenizer have another unit."""
    for place, name in (("a", "run"), ("b", "run"), ("b", "other"), ("b", "like")):
        model = {"model": {}, "framing": {}, "pairs": [], "vocabulary_size": 9, "data_hash": "d"}
        model["tokenizer_hash"] = "u" if name == "other" else "t"
        (tmp_path / place / name / "best").mkdir(parents=True)
        (tmp_path / place / name / "best" / "model.json").write_text(json.dumps(model))
    run, same_name, other, like = (tmp_path / name for name in ("a/run", "b/run", "b/other", "b/like"))
    assert call("analyse", "correlation", run, like, same_name) == 2
    assert f"{run} and {same_name}: both are called run in the results" in capsys.readouterr().err
    caplog.set_level("WARNING", "mnmt_ds")
    assert call("analyse", "sensitivity", run, like, other) == 2, "the models have no weights"
    assert [record.getMessage() for record in caplog.records] == [
        f"{other}: its sensitivity is not comparable with that of {run}: a token is another unit: another tokenizer"
    ]
