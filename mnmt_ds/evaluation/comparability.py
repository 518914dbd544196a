"""What makes two scores, or two dev losses, comparable: all who set figures side by side ask here.

Each function takes what two sides say of themselves and gives reasons, short texts such as ``beam 1, not 5``; none: the
figures are comparable. What a side does not say (an older report) is not held against it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from mnmt_ds.decoding.beam_search import BeamSettings

Report = Mapping[str, Any]
"""What ``mnmt-ds evaluate`` wrote about a model."""
Reasons = tuple[str, ...]
"""Why two figures are not comparable; empty: they are."""
DATA_PLACES = ("directory", "pairs")
"""Settings of ``data`` that change no text of a pair."""


class DevLossFacts(NamedTuple):
    """Facts that decide whether two runs' dev losses are comparable; None or empty where the run does not say."""

    tokenizer: str | None
    """Hash of the tokenizer: a loss in nats a token depends on what a token is."""
    sentencepiece: str | None
    """Version of SentencePiece that trained the tokenizer."""
    label_smoothing: float | None
    """Label smoothing of training and of the dev loss."""
    dev_sets: Mapping[str, str]
    """Hash of each pair's dev text."""
    data: str | None
    """Hash of the prepared corpus."""
    data_settings: Mapping[str, Any]
    """The recipe's ``data`` section."""
    pairs: Collection[str]
    """Pairs that have a dev loss."""


def unlike_translations(candidate: Report, baseline: Report, pair: str) -> Reasons:
    """Compares how two models translated a pair's test set: same sentences, same search.

    Args:
        candidate: the report of one model.
        baseline: the report of the model that it is compared with.
        pair: in both reports.

    Returns:
        Reasons against comparing.
    """
    candidate_facts, baseline_facts = (report["pairs"].get(pair, {}) for report in (candidate, baseline))
    reasons = [*unlike_test_sets(candidate, baseline, pair)]
    if _recorded_search(candidate, candidate_facts) != _recorded_search(baseline, baseline_facts):
        candidate_search, baseline_search = _search(candidate, candidate_facts), _search(baseline, baseline_facts)
        if candidate_search is not None and baseline_search is not None:
            reasons += _differing(candidate_search, baseline_search)
    dtypes = [
        facts.get("dtype", report.get("dtype"))
        for report, facts in ((candidate, candidate_facts), (baseline, baseline_facts))
    ]
    if _differ(*dtypes):
        reasons.append(f"decoded in {dtypes[0]}, not {dtypes[1]}")
    return tuple(reasons)


def outdated(report: Report, model: Mapping[str, Any]) -> str:
    """Explains why scores are not of a model as it is now: its run has gone on since.

    Args:
        report: of the model's evaluation; empty: there is none.
        model: the model's description; empty: it is not there.

    Returns:
        The reason; empty where nothing says so.
    """
    if None in (model.get("sha256"), report.get("model")) or model["sha256"] == report["model"]:
        return ""
    return f"scored at update {report.get('update')}, and the model is now of update {model.get('update')}"


def unlike_test_sets(candidate: Report, baseline: Report, pair: str) -> Reasons:
    """Compares the sentences of a pair that two models were tested on.

    Args:
        candidate: the report of one model.
        baseline: the report of the model that it is compared with.
        pair: in both reports.

    Returns:
        Reasons against comparing.
    """
    candidate_facts, baseline_facts = (report["pairs"].get(pair, {}) for report in (candidate, baseline))
    return tuple(
        f"other {noun} of {pair}"
        for noun, key in (("references", "reference_hash"), ("sources", "source_hash"))
        if _differ(candidate_facts.get(key), baseline_facts.get(key))
    )


def unlike_scores(
    candidate: Report, baseline: Report, metric: str, pairs: Sequence[str] | None = None, resource_class: str = ""
) -> Reasons:
    """Compares what two models' scores, or the means of them over pairs, were made from.

    Args:
        candidate: the report of one model.
        baseline: the report of the model that it is compared with.
        metric: bleu, chrf or bleu_ceiling, which is BLEU of the references themselves.
        pairs: over which the mean is taken; None: over all pairs of each report.
        resource_class: name of the class over whose pairs the mean is taken; empty: over ``pairs``.

    Returns:
        Reasons against comparing, each once.
    """
    evaluated = [_averaged_pairs(report, pairs, resource_class) for report in (candidate, baseline)]
    reasons: dict[str, None] = {}
    if set(evaluated[0]) != set(evaluated[1]):
        reasons[f"over {_listed(evaluated[0])}, not {_listed(evaluated[1])}"] = None
    for pair in evaluated[0]:
        if pair in evaluated[1]:
            name = f"{metric.removesuffix('_ceiling')}_signature"
            signatures = [str(report["pairs"][pair].get(name, "")) for report in (candidate, baseline)]
            if all(signatures):
                reasons |= dict.fromkeys(unlike_signatures(*signatures))
            unlike_texts = unlike_test_sets if metric == "bleu_ceiling" else unlike_translations
            reasons |= dict.fromkeys(unlike_texts(candidate, baseline, pair))
    return tuple(reasons)


def _averaged_pairs(report: Report, pairs: Sequence[str] | None, resource_class: str) -> list[str]:
    """The pairs of a report over which a mean is taken."""
    evaluated = report.get("pairs", {})
    if resource_class:
        pairs = report.get("classes", {}).get(resource_class, {}).get("pairs", ())
    return [*evaluated] if pairs is None else [pair for pair in pairs if pair in evaluated]


def unlike_signatures(candidate: str, baseline: str) -> Reasons:
    """Compares two of sacreBLEU's signatures.

    Args:
        candidate: such as ``nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0``.
        baseline: the signature that it is compared with.

    Returns:
        One reason a field.
    """
    first, second = (dict(part.partition(":")[::2] for part in text.split("|")) for text in (candidate, baseline))
    return tuple(
        f"{key}:{first.get(key, '')}, not {key}:{second.get(key, '')}"
        for key in dict.fromkeys([*first, *second])
        if first.get(key) != second.get(key)
    )


def unlike_dev_losses(candidate: DevLossFacts, baseline: DevLossFacts, pairs: Sequence[str] | None = None) -> Reasons:
    """Compares what two runs' dev losses, or their means or sums over pairs, were made from.

    Args:
        candidate: one run.
        baseline: the run that it is compared with.
        pairs: which losses; None: all pairs of each run.

    Returns:
        Reasons against comparing.
    """
    reasons = [*unlike_tokens(candidate, baseline)]
    if _differ(candidate.label_smoothing, baseline.label_smoothing):
        reasons.append(f"label smoothing {candidate.label_smoothing:g}, not {baseline.label_smoothing:g}")
    validated = [
        dict.fromkeys(side.pairs if pairs is None else [pair for pair in pairs if pair in side.pairs])
        for side in (candidate, baseline)
    ]
    if all(validated) and validated[0].keys() != validated[1].keys():
        reasons.append(f"over {_listed([*validated[0]])}, not {_listed([*validated[1]])}")
    shared = [pair for pair in validated[0] if pair in validated[1]]
    if candidate.dev_sets and baseline.dev_sets:
        other = [pair for pair in shared if _differ(candidate.dev_sets.get(pair), baseline.dev_sets.get(pair))]
        reasons += [f"other dev sets of {_listed(other)}"] if other else []
    elif _differ(candidate.data, baseline.data):
        reasons.append(_other_corpus(candidate, baseline) + ", maybe other dev sets")
    return tuple(reasons)


def unlike_tokens(candidate: DevLossFacts, baseline: DevLossFacts) -> Reasons:
    """Compares the unit of two runs' figures a token: losses, tokens a second.

    Args:
        candidate: one run.
        baseline: the run that it is compared with.

    Returns:
        Reasons against comparing.
    """
    if not _differ(candidate.tokenizer, baseline.tokenizer):
        return ()
    versions = _sentencepiece(candidate, baseline)
    return ("a token is another unit: another tokenizer" + (f" ({versions})" if versions else ""),)


def unlike_training_text(candidate: DevLossFacts, baseline: DevLossFacts) -> Reasons:
    """Finds out whether what should be one corpus changed between two runs: equal settings of data, other text.

    Args:
        candidate: one run.
        baseline: the run that it is compared with.

    Returns:
        Reasons against crediting a difference to the method; none where the recipes want different data anyway.
    """
    data_settings = [
        {k: v for k, v in side.data_settings.items() if k not in DATA_PLACES} for side in (candidate, baseline)
    ]
    if not _differ(candidate.data, baseline.data) or data_settings[0] != data_settings[1]:
        return ()
    versions = _sentencepiece(candidate, baseline)
    return (_other_corpus(candidate, baseline) + " by the same settings" + (f" ({versions})" if versions else ""),)


def _other_corpus(candidate: DevLossFacts, baseline: DevLossFacts) -> str:
    return f"trained on other prepared text ({str(candidate.data)[:12]}, not {str(baseline.data)[:12]})"


def _sentencepiece(candidate: DevLossFacts, baseline: DevLossFacts) -> str:
    """What to say of SentencePiece's versions; empty where they are equal or not known."""
    if not _differ(candidate.sentencepiece, baseline.sentencepiece):
        return ""
    return f"SentencePiece {candidate.sentencepiece}, not {baseline.sentencepiece}"


def _recorded_search(report: Report, facts: Mapping[str, Any]) -> Any:
    return facts.get("search") or report.get("search")


def _search(report: Report, facts: Mapping[str, Any]) -> BeamSettings | None:
    """How a pair was translated; a setting that came later had its default then."""
    values = _recorded_search(report, facts)
    beam_values = {key: value for key, value in (values or {}).items() if key in BeamSettings.model_fields}
    return BeamSettings.model_validate(beam_values) if values else None


def _differing(candidate: BeamSettings, baseline: BeamSettings) -> list[str]:
    first, second = candidate.model_dump(), baseline.model_dump()
    return [f"{key.replace('_', ' ')} {first[key]}, not {second[key]}" for key in first if first[key] != second[key]]


def _differ(candidate: object, baseline: object) -> bool:
    """Whether both sides say something, and not the same."""
    return candidate is not None and baseline is not None and candidate != baseline


def _listed(names: Sequence[str]) -> str:
    """A few names; of many the number, too."""
    names = sorted(names)
    return ", ".join(names[:6]) + (f" … ({len(names)} in all)" if len(names) > 6 else "") if names else "no pair"
