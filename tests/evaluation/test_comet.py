"""COMET's command, run in an environment of its own: a stand-in that takes its arguments and writes its JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.evaluation.comet import comet_score, open_comet
from tests.evaluation.runs import model_run

STAND_IN = """#!/bin/sh
# a Python whose comet.cli.score gives a translation the share of its words that the reference has, less 0.1
[ "$1" = -c ] && { echo 2.2.7; exit 0; }
shift 2
exec PYTHON - "$@" <<'END'
import argparse, json, sys
parser = argparse.ArgumentParser()
for option in ("-s", "-t", "-r", "--model", "--gpus", "--to_json"):
    parser.add_argument(option, required=True)
parser.add_argument("--quiet", action="store_true", required=True)
parser.add_argument("--only_system", action="store_true", required=True)
args = parser.parse_args()
assert open(args.model).read() == "weights" and args.gpus in "01"
sides = [open(path, encoding="utf-8").read().split("\\n")[:-1] for path in (args.s, args.t, args.r)]
if sides[1][0] == "broken":
    sys.exit("CUDA is out of memory")
rows = [{"src": s, "mt": t, "ref": r, "COMET": len({*t.split()} & {*r.split()}) / max(1, len(r.split())) - 0.1}
        for s, t, r in zip(*sides, strict=True)]
json.dump({args.t: rows}, open(args.to_json, "w"))
END
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    path = tmp_path / "python"
    path.write_text(STAND_IN.replace("PYTHON", sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "wmt" / "checkpoints").mkdir(parents=True)
    (tmp_path / "wmt" / "checkpoints" / "model.ckpt").write_text("weights", encoding="utf-8")
    (tmp_path / "wmt" / "hparams.yaml").write_text("class_identifier: regression_metric\n", encoding="utf-8")
    return tmp_path / "wmt"


def test_files_go_there_and_the_mean_comes_back(
    python: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the directory or its checkpoint; also a line with what ends a line elsewhere; what is missing is one line."""
    for path in (model, model / "checkpoints" / "model.ckpt"):
        found = comet_score(open_comet(path, python), ["a\rb", "c"], ["x y", "z"], ["x w", "z\x0b"])
        assert found == ("COMET", pytest.approx(100 * (0.5 + 1 - 0.2) / 2), "model:wmt|scale:100|version:2.2.7")
    texts = {"src": ["s"], "hyp": ["broken"], "ref": ["r"]}
    for kind, lines in texts.items():
        (tmp_path / kind).write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ["evaluate", ".", "--pairs", "bs-en", "--test", str(tmp_path / "src"), str(tmp_path / "ref"),
               "--hypotheses", str(tmp_path / "hyp"), "--comet"]  # fmt: skip
    cases = {
        (str(model), "--comet-python", str(python)): "COMET failed (CUDA is out of memory)",
        (str(model),): "COMET's package does not fit beside this one's; once: python -m venv comet",
        (str(tmp_path), "--comet-python", str(python)): "no COMET model; give a directory with hparams.yaml",
        (str(model), "--comet-python", str(tmp_path / "none")): "cannot be run (No such file or directory)",
        (str(model), "--comet-python", "/bin/false"): "has no unbabel-comet",
        (str(model), "--comet-python", "/bin/true"): "has no unbabel-comet",
        (str(model), "--comet-python", sys.executable): "has no unbabel-comet",
    }
    for options, message in cases.items():
        assert main([*command, *options]) == 2
        error = capfd.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1, error
    (tmp_path / "hyp").write_text("r\n", encoding="utf-8")
    assert main([*command, str(model), "--comet-python", str(python)]) == 0
    assert "COMET      90.00   model:wmt|scale:100|version:2.2.7" in capfd.readouterr().out


def test_a_runs_report_has_it(
    python: Path, model: Path, tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = model_run(tmp_path / "run", tiny_corpus)
    command = ["evaluate", str(run), "--pairs", "bs-en", "--device", "cpu", "--jobs", "1"]
    assert main([*command, "--comet", str(model), "--comet-python", str(python)]) == 0
    assert "model:wmt|scale:100|version:2.2.7" in capfd.readouterr().out
    report = json.loads((run / "evaluation" / "best.test.json").read_text(encoding="utf-8"))
    [score] = report["pairs"]["bs-en"]["other_scores"]
    assert score["name"] == "COMET" and -10 <= score["value"] <= 90
    from mnmt_ds.evaluation.report import read_report, report_path

    assert read_report(report_path(run, "best", "test"))["pairs"]["bs-en"]["other_scores"] == [score]


COMET_PYTHON, COMET_MODEL = os.environ.get("COMET_PYTHON"), os.environ.get("COMET_MODEL")


@pytest.mark.slow
@pytest.mark.skipif(not (COMET_PYTHON and COMET_MODEL), reason="COMET_PYTHON and COMET_MODEL name no environment")
def test_with_comet_itself() -> None:
    """In an environment with unbabel-comet, by a model that is there: the figure that its own command prints."""
    assert COMET_PYTHON and COMET_MODEL
    comet = open_comet(Path(COMET_MODEL), Path(COMET_PYTHON))
    texts = (["ein Haus", "der Baum"], ["a house", "a bush"], ["a house", "the tree"])
    found = comet_score(comet, *texts)
    code = (
        "import json, sys; from comet import load_from_checkpoint; src, mt, ref = json.loads(sys.argv[2])\n"
        "model = load_from_checkpoint(sys.argv[1]).eval().half()\n"
        "rows = [dict(src=s, mt=m, ref=r) for s, m, r in zip(src, mt, ref)]\n"
        "print(model.predict(rows, gpus=0, progress_bar=False).system_score)"
    )
    done = subprocess.run(
        [COMET_PYTHON, "-c", code, str(comet.checkpoint), json.dumps(texts)], capture_output=True, text=True, check=True
    )
    assert found.value == pytest.approx(100 * float(done.stdout.split()[-1]), abs=0.05)
