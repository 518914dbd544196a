"""Strict settings: YAML recipes in, immutable objects out; help, a JSON schema and reference pages from one source.

Each component's settings class stands beside the component; this package knows none of them.
"""

from mnmt_ds.config.loading import Loaded, dump, key_locations, load, load_with_faults
from mnmt_ds.config.paths import FilePath, FilledPathText, PathText
from mnmt_ds.config.settings import PaperDifference, Settings, merged
from mnmt_ds.config.yaml_values import format_value, parse_yaml

__all__ = [
    "FilePath",
    "FilledPathText",
    "Loaded",
    "PaperDifference",
    "PathText",
    "Settings",
    "dump",
    "format_value",
    "key_locations",
    "load",
    "load_with_faults",
    "merged",
    "parse_yaml",
]
