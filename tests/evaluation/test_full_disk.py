"""Commands that write, on a full or read-only disk: one line, the old results stay."""

import hashlib
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from mnmt_ds.cli.main import main
from tests.evaluation.runs import model_run
from tests.small_disk import fill, read_only, small_disk


@pytest.fixture(scope="module")
def run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = model_run(tmp_path_factory.mktemp("runs") / "one", tiny_corpus)
    (run / "metrics.jsonl").write_text('{"kind": "run", "update": 0, "epoch": 0, "time": 1.0, "world_size": 1}\n')
    return run


def contents(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "filling")
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_one_line_and_the_old_results(
    kind: str, run: Path, tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("derbo eulbbo\n" * 3)
    other = model_run(tmp_path / "other", tiny_corpus, 1)
    with small_disk(tmp_path / "disk", "1500k") as disk:
        shutil.copytree(run, disk / "run", symlinks=True)
        commands = {
            "translate": ["translate", disk / "run", "--pair", "bs-en", tmp_path / "text", "-o", disk / "out"],
            "evaluate": ["evaluate", disk / "run", "--pairs", "bs-en", "--beam", "1"],
            "compare": ["compare", disk / "run", "-o", disk / "report"],
            "export": ["export", disk / "run", disk / "exported"],
            "import": ["import", disk / "run", disk / "imported"],
            "average": ["average", disk / "mean", disk / "run", other],
        }
        for name, words in commands.items() if kind == "full" else ():
            if name not in ("export", "import", "average"):
                assert main([*map(str, words)]) == 0
        before = contents(disk)
        if kind == "full":
            fill(disk)
        else:
            read_only(disk)
        commands["evaluate"] += ["--fresh"]
        for name, words in commands.items():
            capfd.readouterr()
            assert main([*map(str, words)]) == 2, name
            line = capfd.readouterr().err.splitlines()[-1]
            assert line.startswith(f"mnmt-ds {name}: {disk}/"), line
            assert ("no space left" if kind == "full" else "read-only") in line
            assert contents(disk) == before, name


def test_outputs_keep_links_and_fifos(run: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("derbo eulbbo\n")
    words = ["translate", str(run), "--pair", "bs-en", str(tmp_path / "text"), "--beam", "1", "-o"]
    (tmp_path / "link").symlink_to("target")
    os.mkfifo(tmp_path / "fifo")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "fifo").read_text()))
    reader.start()
    for name in ("link", "fifo"):
        assert main([*words, str(tmp_path / name)]) == 0
    reader.join(10)
    assert (tmp_path / "link").is_symlink() and got == [(tmp_path / "target").read_text()]
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    (tmp_path / "exported").mkdir()
    (tmp_path / "to exported").symlink_to("exported")
    assert main(["export", str(run), str(tmp_path / "to exported")]) == 0
    assert (tmp_path / "to exported").is_symlink() and (tmp_path / "exported" / "model.safetensors").exists()
    umask = os.umask(0)
    os.umask(umask)
    for path in (tmp_path / "exported").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path
