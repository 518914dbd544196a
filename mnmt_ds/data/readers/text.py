"""Line formats: Moses pairs, TSV, TED's all_talks TSV, FLORES-200 directories, plain monolingual text."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from mnmt_ds.data.readers.corpus_part import Row
from mnmt_ds.data.readers.lines import lines
from mnmt_ds.errors import UserError

ABSENT = (b"", b"__NULL__", b"_ _ NULL _ _")
"""How a TED talk says that a language has no translation of a line."""
_END = object()


def moses(source_path: str, target_path: str, limit: int) -> Iterator[Row]:
    """Line i of one file with line i of the other; UserError, with both counts, where one is longer."""
    number = 0
    sources, targets = lines(source_path, limit), lines(target_path, limit)
    for number, (source, target) in enumerate(zip_longest(sources, targets, fillvalue=_END), 1):
        if source is _END or target is _END:
            rest = number + sum(1 for _ in (targets if source is _END else sources))
            short, long = (source_path, target_path) if source is _END else (target_path, source_path)
            raise UserError(
                f"{short}:{number}: has {number - 1} lines, but {long} has {rest}; line i of one must translate line i"
                " of the other"
            )
        yield number, source, target, None  # type: ignore[misc]


def tsv(path: str, columns: tuple[int, int], limit: int) -> Iterator[Row]:
    """Two columns (from 1) of a TSV without header and without quoting."""
    first, second = columns[0] - 1, columns[1] - 1
    for number, line in enumerate(lines(path, 2 * limit), 1):
        if line is None:
            yield number, None, None, None
            continue
        cells = line.removesuffix(b"\r").split(b"\t")
        if len(cells) <= max(first, second):
            raise UserError(
                f"{path}:{number}: {len(cells)} columns where column {max(columns)} is wanted; mend it, or 'columns'"
            )
        yield number, cells[first], cells[second], None


def ted(path: str, names: tuple[str, str], limit: int) -> Iterator[Row]:
    """Two languages of a TED all_talks TSV, whose first line names the columns."""
    stream = lines(path, 100 * limit)
    header = (next(stream, b"") or b"").removeprefix(b"\xef\xbb\xbf").removesuffix(b"\r").decode("utf-8", "replace")
    known = header.split("\t")
    for name in names:
        if name not in known:
            raise UserError(f"{path}:1: no column '{name}'; the columns are {', '.join(known[:80])}")
    first, second = (known.index(name) for name in names)
    for number, line in enumerate(stream, 2):
        if line is None:
            yield number, None, None, None
            continue
        cells = line.removesuffix(b"\r").split(b"\t")
        if len(cells) != len(known):
            raise UserError(f"{path}:{number}: {len(cells)} columns, but the header has {len(known)}; mend the line")
        if not (_absent(cells[first]) or _absent(cells[second])):
            yield number, cells[first], cells[second], None


def text(path: str, limit: int) -> Iterator[Row]:
    """Monolingual lines, on both sides of the row."""
    for number, line in enumerate(lines(path, limit), 1):
        yield number, line, line, None


def flores_file(directory: str, split: str, language: str, codes: dict[str, str]) -> str:
    """Path of a language's file in a FLORES-200 directory: bos_Latn.dev for "bs", or what ``codes`` says."""
    root = Path(directory)
    folder = root / split if (root / split).is_dir() else root
    if language in codes or "_" in language:
        names = [f"{codes.get(language, language)}.{split}"]
    else:
        names = sorted(path.name for path in folder.glob(f"*_*.{split}") if _two_letter(path.name[:3]) == language)
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) != 1:
        choice = f"one of {', '.join(names)}" if len(names) > 1 else f"the name before .{split}"
        raise UserError(
            f"{folder}: {len(found)} files for '{language}' in split {split};"
            f" say 'codes: {{{language}: ...}}', {choice}"
        )
    return str(found[0])


def _two_letter(code: str) -> str:
    """ISO 639-3 to the code in common use, which has two letters where there is one."""
    from babel.core import get_global

    aliases = get_global("language_aliases")
    return str(
        {"arb": "ar", "zho": "zh", "ekk": "et", "lvs": "lv", "swh": "sw", "khk": "mn"}.get(code)
        or aliases.get(code, code)
    )


def _absent(cell: bytes) -> bool:
    return cell.strip() in ABSENT
