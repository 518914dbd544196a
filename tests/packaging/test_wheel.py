"""The wheel, built from the sdist and installed outside the checkout, does everything; metadata and versions agree."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mnmt_ds
from tests.tiny import ROOT, WORDS

TOP = ("CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")
DIRECTORIES = ("docs", "ds_configs", "launchers", "mnmt_ds", "tests")
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.so", "*.egg-info")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(command: list[str], cwd: Path, **variables: str) -> str:
    """Output of a command that must succeed, in an environment without the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    base = tmp_path_factory.mktemp("sdist")
    source = base / "source"
    source.mkdir()
    for name in TOP:
        shutil.copy(ROOT / name, source / name)
    for name in DIRECTORIES:
        shutil.copytree(ROOT / name, source / name, ignore=IGNORED)
    run([sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(base)!r})"], source)
    (archive,) = base.glob("*.tar.gz")
    shutil.unpack_archive(archive, base)
    return base / f"mnmt_ds-{mnmt_ds.__version__}"


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel that is built from the sdist."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run([*pip, "-w", str(sdist.parent), str(sdist)], sdist.parent)
    (path,) = sdist.parent.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A directory with the wheel installed in it."""
    target = wheel.parent / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    run([*pip, str(wheel)], wheel.parent)
    return target


def files_of(*directories: str) -> set[str]:
    """Files of the checkout below some directories, without what is built there."""
    paths = (path for name in directories for path in (ROOT / name).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts and path.suffix != ".so"}


def test_the_sdist_holds_the_checkout(sdist: Path) -> None:
    packed = {str(path.relative_to(sdist)) for path in sdist.rglob("*") if path.is_file()}
    assert files_of(*DIRECTORIES) | set(TOP) <= packed


def test_the_wheel_holds_all_that_runs_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    shipped = {f"mnmt_ds/_shipped/{name}" for name in files_of("ds_configs", "launchers")}
    assert names == files_of("mnmt_ds") | shipped
    for name in ("mnmt_ds/py.typed", "mnmt_ds/kernels/csrc/cpu.cpp", "mnmt_ds/_shipped/launchers/launch.py"):
        assert name in names


COMMANDS = """
import sys
from pathlib import Path
import mnmt_ds
from mnmt_ds.cli.main import main

assert Path(mnmt_ds.__file__).is_relative_to(sys.argv[1]), mnmt_ds.__file__
for words in (
    "prepare r.yaml --processes 1",
    "train r.yaml --dry-run",
    "train r.yaml train.max_steps=1",
    "train launchers/recipes/main_lssd.yaml --dump-config",
    "study launchers/studies/lssd.yaml --dry-run",
    "bench throughput --help",
):
    try:
        code = main(words.split())
    except SystemExit as ended:
        code = ended.code
    print(words, "->", code)
    assert not code, words
"""
RECIPE = """
directory: run
data:
  directory: data
  pairs: [bs-en]
  corpora: {bs-en: {train: [{format: tsv, path: text.tsv}]}}
  clean: {min_script: 0}
  split: {dev: 10, test: 10}
  tokenizer: {size: 100, hard_limit: false}
model: {preset: tiny, d_model: 32, ffn: 64, heads: 2, encoder_layers: 1, decoder_layers: 1}
train: {max_tokens: 96}
"""


def test_commands_run_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    lines = []
    for first in WORDS:
        for second in WORDS:
            lines.append(f"{first[::-1]} {second[::-1]} {len(lines)}\t{first} {second} {len(lines)}")
    (tmp_path / "text.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "r.yaml").write_text(RECIPE)
    output = run([sys.executable, "-c", COMMANDS, str(installed)], tmp_path, PYTHONPATH=str(installed))
    assert output.count("-> 0") == 6, output
    assert "valid 1 |" in output and (tmp_path / "run" / "best" / "model.safetensors").exists()
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO rank 0: run: translation, 1 pairs", output, re.MULTILINE)
    assert re.search(r"^valid 1 \| epoch", output, re.MULTILINE), "reports have no prefix"
    config = f"deepspeed: {installed}/mnmt_ds/_shipped/ds_configs/zero1.json"
    assert config in (tmp_path / "run" / "recipe.yaml").read_text() and config in output


@pytest.mark.slow
def test_two_ranks_outside_the_checkout(installed: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace("directory: data", f"directory: {tiny_corpus}"))
    launcher = installed / "mnmt_ds" / "_shipped" / "launchers" / "launch.py"
    words = [sys.executable, str(launcher), "--num_gpus", "2", "r.yaml", "train.max_steps=2"]
    assert "valid 2 |" in run(words, tmp_path, PYTHONPATH=str(installed))


def test_installed_packages_lie_in_the_declared_ranges() -> None:
    requirements = [Requirement(line) for line in PROJECT["dependencies"]]
    assert {"torch", "deepspeed", "megatron-core"} <= {requirement.name for requirement in requirements}
    wrong = {
        str(requirement): version(requirement.name)
        for requirement in requirements
        if not requirement.specifier.contains(version(requirement.name).partition("+")[0])
    }
    assert not wrong


def test_one_version_everywhere() -> None:
    assert f"\nversion: {mnmt_ds.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {mnmt_ds.__version__} - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
