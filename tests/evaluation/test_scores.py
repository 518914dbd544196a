"""Scores by hand and against sacreBLEU's public interface; the bootstrap's properties."""

import math
import zlib

import numpy as np
import pytest
import sacrebleu

from mnmt_ds.errors import UserError
from mnmt_ds.evaluation import resampling, scores
from mnmt_ds.evaluation.resampling import SCORES_OF_SUMS, resampled_sums
from mnmt_ds.evaluation.scores import ScoreSettings, bleu_tokenizer, resource_class, score_pair
from mnmt_ds.evaluation.significance import (
    Difference,
    paired_bootstrap,
    resampled_differences,
    significance_of,
    welch_t_test,
)


def score_from_statistics(metric: str, stats_K: np.ndarray, tokenizer: str = "13a") -> float:
    """sacreBLEU's own score of a sum of statistics."""
    return float(scores.make_metric(metric, tokenizer)._compute_score_from_stats(stats_K.tolist()).score)


HYPOTHESES = ["the cat sat on the mat", "a dog barked loudly", "It's 3.5 km (far) away!"]
REFERENCES = ["the cat sat on a mat", "the dog barked loudly today", "It's 3.5 km (too far) away!"]


def test_bleu_by_hand() -> None:
    """One sentence: 5/6 unigrams, 3/5 bigrams, 2/4 trigrams, 1/3 four-grams, no brevity penalty."""
    score = scores.bleu(HYPOTHESES[:1], REFERENCES[:1], "13a")
    assert score.value == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert score.stats_NK.tolist() == [[6, 6, 5, 3, 2, 1, 6, 5, 4, 3]]


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "none", "char", "zh"])
def test_equals_sacrebleu(tokenizer: str) -> None:
    metric = sacrebleu.BLEU(tokenize=tokenizer, force=True)
    expected = metric.corpus_score(HYPOTHESES, [REFERENCES])
    score = scores.bleu(HYPOTHESES, REFERENCES, tokenizer)
    assert score.value == expected.score
    assert score.signature == str(metric.get_signature()) and f"tok:{tokenizer}" in score.signature
    assert score_from_statistics("bleu", score.stats_NK.sum(0), tokenizer) == pytest.approx(expected.score)
    characters = scores.chrf(HYPOTHESES, REFERENCES)
    assert characters.value == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    assert score_from_statistics("chrf", characters.stats_NK.sum(0)) == pytest.approx(characters.value)


def test_tokenizer_follows_the_target_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "find_spec", lambda name: None)
    wanted = {"en": "13a", "ko": "13a", "zh": "zh", "zh_CN": "zh", "zho_Hans": "zh", "ja": "char", "tha_Thai": "char"}
    wanted |= {
        "chi": "zh",
        "zh-TW": "zh",
        "zh-Hant": "zh",
        "cmn_Hant": "zh",
        "lzh": "zh",
        "zh-yue": "zh",
        "bur": "char",
    }
    wanted |= {"bod_Tibt": "char", "dzo_Tibt": "char", "ger": "13a"}
    assert {target: bleu_tokenizer("auto", target) for target in wanted} == wanted
    monkeypatch.setattr(scores, "find_spec", lambda name: object())
    assert bleu_tokenizer("auto", "jpn") == "ja-mecab"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("13b", "not known"),
        ("ja-mecab", r"pip install 'sacrebleu\[ja\]'"),
        ("flores200", "flores200sacrebleuspm is not"),
    ],
)
def test_tokenizers_that_cannot_be_had(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(scores, "find_spec", lambda name: None)
    monkeypatch.setenv("SACREBLEU", str(tmp_path))
    with pytest.raises(UserError, match=message):
        bleu_tokenizer(name, "ja")


def test_pair_facts_hold_both_conventions() -> None:
    facts = score_pair(HYPOTHESES, REFERENCES, "en", ScoreSettings(tokenizers=("auto", "none")))
    assert facts["bleu"] == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert "tok:13a" in facts["bleu_signature"] and "tok:none" in facts["other_bleu"][0]["signature"]
    assert facts["length_ratio"] == pytest.approx((6 + 4 + 8) / (6 + 5 + 9))


def test_resource_classes() -> None:
    settings = ScoreSettings(high=1000, very_low=300)
    assert [resource_class(n, settings) for n in (299, 300, 999, 1000)] == ["very low", "low", "low", "high"]
    pairs = {
        "a-en": {"class": "high", "bleu": 30.0, "chrf": 50.0},
        "b-en": {"class": "very low", "bleu": 5.0, "chrf": 20.0},
        "c-en": {"class": "very low", "bleu": 7.0, "chrf": 26.0},
    }
    assert scores.macro_averages(pairs) == {"bleu": 14.0, "chrf": 32.0}
    assert scores.class_averages(pairs)["very low"] == {"pairs": ["b-en", "c-en"], "bleu": 6.0, "chrf": 23.0}
    assert "low" not in scores.class_averages(pairs)


def test_difference_by_hand() -> None:
    """Samples -1, 0, 1, 2 around 0.5: deviations 1.5, 0.5, 0.5, 1.5, of which two reach 1.2."""
    found = significance_of(1.2, np.array([-1.0, 0.0, 1.0, 2.0]))
    assert found == Difference(1.2, pytest.approx(-0.925), pytest.approx(1.925), 3 / 5)


def test_bootstrap_resamples_sum_to_corpora() -> None:
    """With one sentence every resample is the corpus itself."""
    settings = ScoreSettings(samples=7)
    own, other = scores.bleu(HYPOTHESES[:1], REFERENCES[:1], "13a"), scores.bleu(REFERENCES[:1], REFERENCES[:1], "13a")
    samples = resampled_differences(own, other, "bleu", settings, "x-en")
    assert samples == pytest.approx([own.value - 100] * 7)


def test_scores_of_many_sums_are_sacrebleus() -> None:
    """Also where an order has no match, a sentence is too short for an order, or a side is empty."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(0, 12, (500, 2))
    bleu_RK, chrf_RK = np.zeros((500, 10)), np.zeros((500, 18))
    bleu_RK[:, :2] = lengths
    for order in range(4):
        bleu_RK[:, 6 + order] = np.maximum(lengths[:, 0] - order, 0)
        bleu_RK[:, 2 + order] = generator.integers(0, bleu_RK[:, 6 + order] + 1) * (generator.random(500) < 0.8)
    for order in range(6):
        sizes = np.maximum(lengths - order, 0)
        chrf_RK[:, 3 * order : 3 * order + 2] = sizes
        chrf_RK[:, 3 * order + 2] = generator.integers(0, sizes.min(1) + 1)
    for metric, stats_RK in (("bleu", bleu_RK), ("chrf", chrf_RK)):
        expected = [score_from_statistics(metric, stats_K) for stats_K in stats_RK]
        np.testing.assert_allclose(SCORES_OF_SUMS[metric](stats_RK), expected, rtol=1e-12, atol=1e-12)
        assert np.ptp(expected) > 50 and 0 in expected


def test_resamples_are_drawn_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of them is held at once."""
    stats_NK = np.arange(40.0).reshape(20, 2)
    generator = np.random.default_rng([3, zlib.crc32(b"x-en")])
    expected = [stats_NK[generator.integers(20, size=20)].sum(0) for _ in range(7)]
    assert resampled_sums(stats_NK, 7, 3, "x-en").tolist() == np.array(expected).tolist()
    monkeypatch.setattr(resampling, "CHUNK", 50)
    assert resampled_sums(stats_NK, 7, 3, "x-en").tolist() == np.array(expected).tolist()


def test_bootstrap() -> None:
    generator = np.random.default_rng(0)
    words = np.array(list("abcdefghijklmnop"))
    references = [" ".join(generator.choice(words, 9)) for _ in range(60)]

    def spoil(text: str, count: int) -> str:
        tokens = text.split()
        for place in generator.choice(9, count, replace=False):
            tokens[place] = "x"
        return " ".join(tokens)

    good = {"a-en": [spoil(text, 1) for text in references], "b-en": references}
    bad = {"a-en": [spoil(text, 3) for text in references], "b-en": references}
    both = {"a-en": references, "b-en": references}
    settings = ScoreSettings(samples=200)
    found = paired_bootstrap([good], [bad], both, settings)
    assert found["bleu"]["a-en"].p == 1 / 201 and found["bleu"]["a-en"].low > 0
    assert found["bleu"]["b-en"] == Difference(0.0, 0.0, 0.0, 1.0)
    assert found["bleu"]["macro"].delta == pytest.approx(found["bleu"]["a-en"].delta / 2)
    assert found["bleu"]["macro"].low == pytest.approx(found["bleu"]["a-en"].low / 2)
    assert found == paired_bootstrap([good], [bad], both, settings), "the same seed gives the same resamples"
    reverse = paired_bootstrap([bad], [good], both, settings)["bleu"]["a-en"]
    assert (reverse.delta, reverse.p) == (-found["bleu"]["a-en"].delta, found["bleu"]["a-en"].p)
    alone = paired_bootstrap([good], [bad], {"a-en": references}, settings)
    assert alone["chrf"]["a-en"] == found["chrf"]["a-en"], "a pair's resamples do not depend on the other pairs"
    seeds = paired_bootstrap([good, bad], [bad, bad], both, settings)["bleu"]["a-en"]
    assert (seeds.delta, seeds.low) == pytest.approx([found["bleu"]["a-en"].delta / 2, found["bleu"]["a-en"].low / 2])


def test_seeds() -> None:
    """Welch by hand: means 2 and 5, variances 1 and 1 over three seeds each: t = -3 / sqrt(2/3), df = 4."""
    found = welch_t_test([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert found is not None and found["delta"] == -3
    assert found["p"] == pytest.approx(0.021312, abs=1e-6)
    assert found["high"] == pytest.approx(-3 + 2.776445 * math.sqrt(2 / 3), abs=1e-4)
    assert welch_t_test([1.0], [2.0, 3.0]) is None
