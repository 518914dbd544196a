"""Bootstraps that an earlier report made: kept beside it, by the digest of all that they depend on."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.evaluation.significance import Difference
from mnmt_ds.file_integrity import read_checked_json, with_checksum

BOOTSTRAPS = "bootstraps.json"
"""Name of the file beside a report."""
_ByDigest = dict[str, Any]
"""{digest: {"bleu" or "chrf": {pair or "macro": [delta, low, high, p]}}}."""


class KeptBootstraps(NamedTuple):
    """Bootstraps of this report and of the one before, by the digest of what they depend on."""

    before: _ByDigest
    """Bootstraps that an earlier report kept."""
    used: _ByDigest
    """Bootstraps that this report used, which are kept for the next one."""

    def text(self) -> str:
        """Formats the used bootstraps as the file that keeps them.

        Returns:
            JSON with a checksum.
        """
        return json.dumps(with_checksum(self.used))


def read_bootstraps(report: Path) -> KeptBootstraps:
    """Reads what an earlier report kept.

    Args:
        report: the report's directory.

    Returns:
        The bootstraps; none where there is no file, or none that can be trusted: they are made anew.
    """
    try:
        earlier = read_checked_json(report / BOOTSTRAPS)
    except (OSError, ValueError):
        earlier = {}
    return KeptBootstraps(earlier, {})


def kept_or_new(
    bootstraps: KeptBootstraps, depends_on: Any, make: Callable[[], Mapping[str, Mapping[str, Difference]]]
) -> dict[str, dict[str, Difference]]:
    """Looks up a bootstrap, or computes and keeps it.

    Args:
        bootstraps: those there are; a new one is added.
        depends_on: texts and settings, as JSON has them.
        make: makes the bootstrap.

    Returns:
        Differences by metric and pair.
    """
    version = importlib.metadata.version("sacrebleu")
    digest = hashlib.sha256(json.dumps([version, depends_on], sort_keys=True).encode()).hexdigest()
    rows = bootstraps.before.get(digest)
    if rows is None:
        rows = {metric: {pair: list(row) for pair, row in by_pair.items()} for metric, by_pair in make().items()}
    bootstraps.used[digest] = rows
    return {metric: {pair: Difference(*row) for pair, row in by_pair.items()} for metric, by_pair in rows.items()}
