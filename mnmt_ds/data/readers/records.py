"""Records with named fields, as JSON and Parquet hold them, and the ways in which they hold texts by language.

The two languages are fields of their own ({"en": …, "fr": …}, or other names that the recipe gives, with dots into
inner records), or a field ``translation`` has them: one text a language, parallel lists of languages and texts
({"language": […], "translation": […]}), or a list with an element a language.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from mnmt_ds.data.language_choice import codes_for
from mnmt_ds.data.language_codes import parse_code
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.scores import Thresholds
from mnmt_ds.errors import UserError

_CODE = re.compile(
    r"[A-Za-z]{2,3}(?P<script>[-_][A-Za-z]{4})?(?:[-_](?:[A-Z]{2}|[0-9]{3}|cn|tw|hk|mo|sg|br|pt|ca|us|gb|mx|at|ch))?(?:@\w+)?"
)
"""What a column is called that is named by a language; en_id, en_text and en_score are other things."""


def rows_of_records(path: str, records: Iterable[tuple[int, Mapping[str, Any]]], request: ReadRequest) -> Iterator[Row]:
    """Yields the texts of two languages from records.

    Args:
        path: the file, for messages.
        records: number and fields of each record.
        request: ``columns`` or ``codes`` name the fields, or the languages within ``translation``.

    Yields:
        A row a record; a language that a record lacks is empty.

    Raises:
        UserError: when a field holds no text, or no record has one of the languages.
    """
    names = source_name, target_name = request.names
    missing = dict.fromkeys(names)
    seen: dict[str, None] = {}
    thresholds = Thresholds(path, request)
    filtered, are_names_known = bool(thresholds.columns), False
    for number, record in records:
        source, target = record.get(source_name), record.get(target_name)
        if (source is None or target is None) and type(inner := record.get("translation")) is dict:
            source, target = inner.get(source_name), inner.get(target_name)
        if type(source) is str and type(target) is str and not filtered:  # what most files are
            if missing:
                missing.clear()
            yield number, source, target, None
            continue
        if missing and not are_names_known:
            names = source_name, target_name = names_in_record(path, request, record)
            missing, are_names_known = dict.fromkeys(names), True
        texts = texts_of_record(record, names)
        if texts is None:
            raise UserError(f"{path}:{number}: its 'translation' is no texts by language; name 'columns'")
        if filtered and not thresholds.pass_row(number, lambda name: field_of(record, str(name))):  # noqa: B023
            continue
        sides = []
        for name in names:
            text = texts.get(name)
            if text is not None:
                missing.pop(name, None)
            if not isinstance(text, str | None):
                raise UserError(f"{path}:{number}: '{name}' holds {type(text).__name__}, not text; name 'columns'")
            sides.append(text or "")
        if missing and len(seen) < 100:
            seen.update(dict.fromkeys([*texts, *record]))
        yield number, sides[0], sides[1], None
    if seen and missing:
        fields = ", ".join(name for name in seen if name not in missing)
        raise UserError(f"{path}: no field '{next(iter(missing))}'; it has {fields}: say which in 'columns'")
    thresholds.log()


def names_in(path: str, request: ReadRequest, fields: Collection[str]) -> tuple[str, str]:
    """Finds what the two languages are called among fields or columns.

    Args:
        path: the file, for messages.
        request: ``columns`` or ``codes`` name the fields.
        fields: those that there are.

    Returns:
        Their names as the recipe gives them, where it does or the file calls them so; else the field that is another
        code of the language, such as eng of en.

    Raises:
        UserError: where several fields are.
    """
    names, distinct = [], [field for field in dict.fromkeys(fields) if _is_code(field)]
    for language, name in zip((request.source, request.target), request.names, strict=True):
        matches = [] if request.columns or language in request.codes else codes_for(language, distinct, path)
        if len(matches) > 1:
            raise UserError(f"{path}: '{language}' may be {' or '.join(matches)}: say which in 'codes'")
        names.append(matches[0] if matches else name)
    return names[0], names[1]


def _is_code(field: str) -> bool:
    match = _CODE.fullmatch(field)
    return match is not None and bool(parse_code(field).script or not match["script"])


def names_in_record(path: str, request: ReadRequest, record: Mapping[str, Any]) -> tuple[str, str]:
    """Finds what the two languages are called in a record, in its fields or in its ``translation``.

    Args:
        path: the file, for messages.
        request: ``columns`` or ``codes`` name the fields.
        record: fields by name.

    Returns:
        Their names.

    Raises:
        UserError: where several fields are the same language.
    """
    inner = texts_by_language(record["translation"]) if "translation" in record else None
    return names_in(path, request, [str(name) for name in (inner or record)])


def field_of(record: Any, name: str) -> Any:
    """Looks up a field, also an inner one.

    Args:
        record: fields by name.
        name: the field's name, or names with dots between them, such as ``meta.score``.

    Returns:
        What it holds; None where there is no such field.
    """
    if isinstance(record, Mapping) and name in record:
        return record[name]
    for part in name.split("."):
        if not isinstance(record, Mapping) or part not in record:
            return None
        record = record[part]
    return record


def texts_of_record(record: Mapping[str, Any], names: tuple[str, str]) -> Mapping[str, Any] | None:
    """Looks up the texts of a record.

    Args:
        record: fields by name.
        names: the two languages, as the file calls them.

    Returns:
        At least those texts of the two that the record has, by name; None where its ``translation`` is laid out in no
        known way.
    """
    fields = {name: field_of(record, name) for name in names}
    if "translation" not in record or all(text is not None for text in fields.values()):
        return {name: text for name, text in fields.items() if text is not None}
    return texts_by_language(record["translation"])


def texts_by_language(cell: Any) -> Mapping[str, Any] | None:
    """Reads the texts of one record's ``translation``, whichever way it is laid out.

    Args:
        cell: what the field holds.

    Returns:
        Texts by language; None where it is none of the known ways.
    """
    if isinstance(cell, dict) and isinstance(cell.get("language"), list) and isinstance(cell.get("translation"), list):
        return dict(zip(cell["language"], cell["translation"], strict=False))
    if isinstance(cell, dict):
        return cell
    if not isinstance(cell, list) or not all(isinstance(part, dict) for part in cell):
        return None
    texts: dict[str, Any] = {}
    for part in cell:
        language = part.get("language", part.get("lang"))
        words = [value for name, value in part.items() if name in ("text", "translation", "sentence")]
        if not isinstance(language, str) or len(words) != 1:
            return None
        texts.setdefault(language, words[0])
    return texts
