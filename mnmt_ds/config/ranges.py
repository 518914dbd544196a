"""The ranges of settings that are numbers: read off their fields, said in words, and given to command-line options."""

import argparse
import math
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from mnmt_ds.config.settings import Settings

LARGE = 10**5
"""Upper bounds from here on only catch slips; descriptions leave them out."""


class NumberRange(NamedTuple):
    """Range of allowed numbers; None: no such bound. NaN and the infinities are never allowed."""

    kind: type
    """int or float."""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def holds(self, value: float) -> bool:
        """Returns whether a number lies in the range.

        Args:
            value: the number.

        Returns:
            True where it does.
        """
        return (
            math.isfinite(value)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def text(self, below: float = math.inf) -> str:
        """Describes the range in words.

        Args:
            below: upper bounds from here on are left out.

        Returns:
            Such as "at least 1" or "more than 0 and at most 1"; empty where there is no bound to say.
        """
        lower = _bound("at least", self.ge) or _bound("more than", self.gt)
        upper = [(word, bound) for word, bound in (("at most", self.le), ("less than", self.lt))]
        phrases = [lower, *(_bound(word, bound) for word, bound in upper if bound is not None and bound < below)]
        return " and ".join(phrase for phrase in phrases if phrase)


def _bound(words: str, bound: float | None) -> str:
    """A bound in words; whole numbers with separators, since long ones are hard to count."""
    if bound is None:
        return ""
    return f"{words} {int(bound):,}" if float(bound).is_integer() else f"{words} {bound:g}"


def number_ranges(annotation: Any, metadata: Iterable[Any] = ()) -> list[NumberRange]:
    """Lists the ranges of the numbers that a field takes.

    Args:
        annotation: the field's annotation.
        metadata: the field's constraints.

    Returns:
        One for each int or float in the annotation, in its order; empty where the field takes no numbers.
    """
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return number_ranges(inner, [*metadata, *more])
    if annotation in (int, float):
        flat = [bound for item in metadata for bound in (item.metadata if isinstance(item, FieldInfo) else [item])]
        bounds = {type(bound).__name__.lower(): getattr(bound, type(bound).__name__.lower())
                  for bound in flat if isinstance(bound, Ge | Gt | Le | Lt)}  # fmt: skip
        return [NumberRange(annotation, **bounds)]
    return [number for argument in get_args(annotation) for number in number_ranges(argument, metadata)]


def ranges_of(field: FieldInfo) -> list[NumberRange]:
    """Lists the ranges of the numbers that a field takes.

    Args:
        field: of a settings class.

    Returns:
        As ``number_ranges``.
    """
    return number_ranges(field.annotation, field.metadata)


def range_text(field: FieldInfo, below: float = math.inf) -> str:
    """Describes in words which numbers a field takes.

    Args:
        field: of a settings class.
        below: upper bounds from here on are left out.

    Returns:
        Such as "at least 1"; empty where it takes no numbers, or several kinds of them.
    """
    texts = {number.text(below) for number in ranges_of(field)}
    return texts.pop() if len(texts) == 1 else ""


def special_values(field: FieldInfo) -> str:
    """Finds what a field's description says of single values, such as "0: never".

    Args:
        field: of a settings class.

    Returns:
        These clauses; empty where there are none.
    """
    text = " ".join((field.description or "").split())
    return "; ".join(re.findall(r"(?:(?<=[;:,.] )|^)((?:\d+|a large number): [^;.]+)", text))


def number_option(kind: type, ge: float | None = None, gt: float | None = None, le: float | None = None,
                  lt: float | None = None) -> Callable[[str], float]:  # fmt: skip
    """Makes the ``type`` of a command-line option that is a number.

    Args:
        kind: int or float.
        ge: the least value.
        gt: what the value must exceed.
        le: the greatest value.
        lt: what the value must be below.

    Returns:
        A function from a word to the number, which argparse calls.
    """
    return _option(NumberRange(kind, ge, gt, le, lt))


def setting_option(settings: type[Settings], name: str) -> Callable[[str], float]:
    """Makes the ``type`` of a command-line option that is one of the settings.

    Args:
        settings: the settings' class.
        name: of a field with one number.

    Returns:
        A function from a word to the number, in the field's range, which argparse calls.
    """
    return _option(ranges_of(settings.model_fields[name])[0])


def _option(allowed: NumberRange) -> Callable[[str], float]:
    """argparse's ``type`` of a range."""

    def parse(word: str) -> float:
        try:
            value: float = allowed.kind(word)
        except ValueError:
            noun = "a whole number" if allowed.kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {noun}, not '{word}'") from None
        if not allowed.holds(value):
            raise argparse.ArgumentTypeError(f"must be {allowed.text() or 'a finite number'}, not {word}")
        return value

    return parse
