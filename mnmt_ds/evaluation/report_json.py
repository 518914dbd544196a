"""What every written report holds, for checking one that is read."""

from typing import Any, NotRequired

from typing_extensions import TypedDict


class _Scores(TypedDict):
    """What tables read of a pair, a class or the mean."""

    bleu: float
    chrf: float


class _PairScores(_Scores):
    sentences: int
    train_sentences: int
    bleu_signature: NotRequired[str]
    chrf_signature: NotRequired[str]


class ReportJson(TypedDict):
    """JSON of an evaluation's report, which is checked when it is read."""

    pairs: dict[str, _PairScores]
    macro: _Scores
    classes: dict[str, _Scores]
    score: NotRequired[dict[str, Any]]
    search: NotRequired[dict[str, Any]]
    seconds: float
