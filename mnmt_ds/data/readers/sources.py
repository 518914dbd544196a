"""From settings to parts: every file, catalog or generated text of a pair."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mnmt_ds.data.readers import catalog, cldr, huggingface, text, tmx
from mnmt_ds.data.readers.corpus_part import CorpusPart, Row
from mnmt_ds.data.settings import DataSettings, Files
from mnmt_ds.errors import UserError

Origin = Literal["files", "gettext", "cldr"]


def parts_of(settings: DataSettings, pair: str, which: str, origin: Origin) -> list[CorpusPart]:
    """The parts of a pair's "train", "dev" or "test" text, or of a language's "mono"."""
    if which == "mono":
        files = settings.monolingual[pair]
    elif which == "train" and origin != "files":
        files = [Files(format=origin)]
    else:
        files = getattr(settings.files_of(pair), which)
    return [part for place in files for part in _expanded(place, settings, pair, which)]


def blocks(rows: Iterator[Row], size: int = 2000, weight: int = 1 << 22) -> Iterator[list[Row]]:
    """Rows in lists that end at ``size`` rows or ``weight`` bytes; where ``rows`` raises, those before come first."""
    block: list[Row] = []
    held = 0
    try:
        for row in rows:
            block.append(row)
            held += len(row[1] or "") + len(row[2] or "")
            if len(block) == size or held > weight:
                yield block
                block, held = [], 0
    except UserError:
        if block:
            yield block
        raise
    if block:
        yield block


def identity(parts: Iterable[CorpusPart]) -> list[Any]:
    """What says whether the files changed: path, size and time of each; the version of generated text."""
    facts: list[Any] = []
    for part in parts:
        facts.append([part.domain, part.catalog])
        for path in files_of(part):
            try:
                status = path.stat()
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror}); mend the path in the recipe") from None
            facts.append([str(path), status.st_size, status.st_mtime_ns])
    return facts


def files_of(part: CorpusPart) -> list[Path]:
    """The part's files; those inside, where it is a directory."""
    found = []
    for path in filter(None, dict.fromkeys(part.files)):
        inside = sorted(Path(path).rglob("*")) if Path(path).is_dir() else [Path(path)]
        found += [file for file in inside if not file.is_dir()]
    return found


def _expanded(place: Files, settings: DataSettings, pair: str, which: str) -> list[CorpusPart]:
    source, _, target = pair.partition("-")
    english, limit = settings.split.key_language, settings.clean.max_line_bytes
    names = _names(place, source, target)
    filled = [
        path.replace("{source}", source).replace("{target}", target).replace("{pair}", pair)
        for path in (place.path, place.target_path)
        if path
    ]
    domain = place.domain or Path(filled[0] if filled else place.format).name
    match place.format:
        case "gettext":
            return catalog.system(pair, settings.catalogs, english)
        case "mo" | "po":
            if english not in (source, target):
                raise UserError(f"data.corpora.{pair}: {place.format} catalogs hold {english} and one other language")
            turned = target == english
            reader = catalog.mo if place.format == "mo" else catalog.po
            return [CorpusPart(partial(reader, filled[0], turned=turned), (filled[0],), domain, catalog=True)]
        case "cldr":
            return [CorpusPart(partial(cldr.cldr, source, target or source, english), ("",), cldr.version())]
        case "moses":
            return [CorpusPart(partial(text.moses, filled[0], filled[1], limit), (filled[0], filled[1]), domain)]
        case "flores":
            split = place.split or {"test": "devtest"}.get(which, which)
            files = [text.flores_file(filled[0], split, side, place.codes) for side in (source, target or source)]
            return [CorpusPart(partial(text.moses, files[0], files[1], limit), (files[0], files[1]), domain)]
        case "tsv":
            return [CorpusPart(partial(text.tsv, filled[0], _numbers(place, pair), limit), (filled[0],), domain)]
        case "ted":
            return [CorpusPart(partial(text.ted, filled[0], names, limit), (filled[0],), domain)]
        case "tmx":
            return [CorpusPart(partial(tmx.tmx, filled[0], names[0], names[1]), (filled[0],), domain)]
        case "huggingface":
            return [CorpusPart(partial(huggingface.huggingface, filled[0], place.split, names), (filled[0],), domain)]
        case "text":
            return [CorpusPart(partial(text.text, filled[0], limit), (filled[0],), domain)]


def _names(place: Files, source: str, target: str) -> tuple[str, str]:
    """What the two languages are called in a file."""
    if place.columns is not None:
        return str(place.columns[0]), str(place.columns[1])
    return place.codes.get(source, source), place.codes.get(target or source, target or source)


def _numbers(place: Files, pair: str) -> tuple[int, int]:
    first, second = place.columns or (1, 2)
    if not (isinstance(first, int) and isinstance(second, int) and min(first, second) > 0):
        raise UserError(f"data.corpora.{pair}: 'columns' of a TSV are two numbers from 1, such as [1, 2]")
    return first, second
