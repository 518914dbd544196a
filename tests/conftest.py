"""A small prepared corpus that tests share, one thread a process, and no GPU but for the loss's own tests.

``PRETEND_GPU=1 pytest``: torch says that there is a GPU, in child processes too. Nothing may then ask for one.
"""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["DS_ACCELERATOR"] = "cpu"  # whatever the launcher that started pytest has found

import pytest

if os.environ.get("PRETEND_GPU"):
    import tests.pretend_gpu.sitecustomize

    os.environ["PYTHONPATH"] = f"{Path(tests.pretend_gpu.sitecustomize.__file__).parent}:{Path.cwd()}"

from tests.tiny import write_corpus


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a prepared corpus of three synthetic languages into English."""
    return write_corpus(tmp_path_factory.mktemp("tiny"))
