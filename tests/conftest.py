"""A small prepared corpus that tests share, and one thread a process."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import pytest

from tests.tiny import write_corpus


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a prepared corpus of three synthetic languages into English."""
    return write_corpus(tmp_path_factory.mktemp("tiny"))
