"""From settings to parts: every file, catalog or generated text of a pair."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from mnmt_ds.data.readers import catalog
from mnmt_ds.data.readers.rows import Part, Row
from mnmt_ds.data.settings import DataSettings, Files
from mnmt_ds.errors import UserError

Origin = Literal["files", "gettext", "cldr"]


def parts_of(settings: DataSettings, pair: str, which: str, origin: Origin) -> list[Part]:
    """The parts of a pair's "train", "dev" or "test" text."""
    if which == "train" and origin != "files":
        files = [Files(format=origin)]
    else:
        files = getattr(settings.files_of(pair), which)
    return [part for place in files for part in _expanded(place, settings, pair, which)]


def blocks(rows: Iterator[Row], size: int = 2000) -> Iterator[list[Row]]:
    """Rows in lists of at most ``size``."""
    while block := list(islice(rows, size)):
        yield block


def identity(parts: Iterable[Part]) -> list[Any]:
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


def files_of(part: Part) -> list[Path]:
    """The part's files; those inside, where it is a directory."""
    found = []
    for path in filter(None, dict.fromkeys(part.files)):
        inside = sorted(Path(path).rglob("*")) if Path(path).is_dir() else [Path(path)]
        found += [file for file in inside if not file.is_dir()]
    return found


def _expanded(place: Files, settings: DataSettings, pair: str, which: str) -> list[Part]:
    source, target = pair.split("-")
    filled = [
        path.replace("{source}", source).replace("{target}", target).replace("{pair}", pair)
        for path in (place.path, place.target_path)
        if path
    ]
    domain = place.domain or Path(filled[0] if filled else place.format).name
    match place.format:
        case "gettext":
            return catalog.system(pair, settings.catalogs)
        case "mo" | "po":
            turned = target == settings.split.key_language
            reader = catalog.mo if place.format == "mo" else catalog.po
            return [Part(partial(reader, filled[0], turned=turned), (filled[0],), domain, catalog=True)]
    raise UserError(f"data.corpora.{pair}: format '{place.format}' cannot be read here")
