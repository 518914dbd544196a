"""Checks before a job: what is compared, what a node reports, locks, and how the watchdog ends a job."""

import io
import os
import queue
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.config import dump
from mnmt_ds.distributed import same_everywhere
from mnmt_ds.errors import UserError
from mnmt_ds.kernels import deepspeed_ops
from mnmt_ds.launching import job, native_code, node_report
from mnmt_ds.launching.node_report import NodeReport
from mnmt_ds.launching.preflight import compare_reports
from mnmt_ds.launching.remote import RemoteShell, forwarded_variables
from mnmt_ds.launching.watchdog import JOB_VARIABLE
from tests.spawn import on_ranks
from tests.tiny import ROOT, recipe

VERSIONS = {"mnmt_ds": "1", "data": "abc"}


def report(must_match: dict[str, str] = VERSIONS, gpus: int = 0, shared: bool = True, *faults: str) -> NodeReport:
    return NodeReport(must_match, gpus, "10.0.0.1", shared, list(faults))


def test_each_fault_is_a_line_that_names_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    reports = {
        "one": report(gpus=8),
        "two": report({"mnmt_ds": "2", "data": "abc"}, 8, False, "/data: 1.0 GiB free"),
        "three": report({"mnmt_ds": "1", "data": "xyz"}, 4),
    }
    assert compare_reports(dict.fromkeys(reports, 8), reports, Path("runs/x")) == [
        "node two: /data: 1.0 GiB free",
        "node two: mnmt_ds 2, but 1 on one; make them the same",
        "node two: runs/x is not the directory that the launching node sees;"
        " put the run on a file system that all nodes share",
        "node three: data xyz, but abc on one; make them the same",
        "node three: 4 GPU(s) visible, 8 wanted; correct its slots or its driver",
    ]


def test_without_gpus_anywhere_none_is_wanted_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = {"one": report(), "two": report()}
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert compare_reports(dict.fromkeys(reports, 2), reports, Path("x")) == []
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    assert len(compare_reports(dict.fromkeys(reports, 2), reports, Path("x"))) == 2


def test_a_node_checks_itself(
    tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))  # this machine's own may hold a lock
    path = tmp_path / "r.yaml"
    path.write_text(dump(recipe(tiny_corpus, tmp_path / "run")))
    assert main(["preflight", str(path), "--node", ""]) == 0
    parsed = node_report.parse_output("other words\n" + capfd.readouterr().out)
    assert parsed is not None and parsed.faults == [] and parsed.shared
    assert parsed.must_match["data"] and parsed.must_match["mnmt_ds's source"] and parsed.must_match["torch"]
    huge = node_report.report_node(
        path, ["model.d_model=8192", "model.ffn=1000000", "model.encoder_layers=900"], "absent"
    )
    assert not huge.shared and len(huge.faults) == 1
    assert huge.faults[0].startswith(f"{tmp_path / 'run'}: ") and "GiB are needed; make room" in huge.faults[0]
    missing = node_report.report_node(path, ["data.directory=nowhere"], "")
    assert missing.faults[0].startswith("nowhere/manifest.json: no prepared")


def test_the_bytes_of_a_run(tiny_corpus: Path, tmp_path: Path) -> None:
    """One matrix of 10 x 32 besides the layers; three pairs."""
    made = recipe(tiny_corpus, tmp_path / "run")
    more = node_report.run_bytes(made, 110) - node_report.run_bytes(made, 100)
    assert more == 10 * 32 * (16 * 3 + 4 * 5)


def test_altered_data_is_found_by_reading_it(tmp_path: Path) -> None:
    from mnmt_ds.data.corpus import Corpus
    from tests.tiny import write_corpus

    corpus = Corpus.open(write_corpus(tmp_path))
    assert node_report.altered_files(corpus) == []
    path = corpus.directory / "bin" / "fr-en.train.bin"
    raw = bytearray(path.read_bytes())
    raw[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(raw)
    assert node_report.altered_files(corpus) == [f"{path}: was altered since it was prepared; copy it again"]


def test_a_lock_that_nobody_holds_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's FileBaton makes it, by a builder that lives and by one that was killed."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(deepspeed_ops, "MIN_AGE", 0.0)
    lock = tmp_path / "cpu_adam" / "lock"
    lock.parent.mkdir()
    script = (
        "import sys, time; from torch.utils.file_baton import FileBaton; "
        "print((held := FileBaton(sys.argv[1])).try_acquire(), flush=True); time.sleep(100)"
    )
    builder = subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE, text=True)
    assert builder.stdout is not None and builder.stdout.readline().strip() == "True"
    assert deepspeed_ops.stale_locks() == []
    builder.kill()
    builder.wait()
    assert deepspeed_ops.stale_locks() == [lock]
    faults = native_code.build_native_code("chunked", {})
    assert len(faults) == 1 and faults[0].startswith(f"{lock}: left by a build that was killed")
    lock.unlink()
    assert native_code.build_native_code("chunked", {}) == []


def test_which_ops_a_configuration_needs() -> None:
    adam = {"type": "AdamW", "params": {"torch_adam": True}}
    assert native_code.ops_needed({"optimizer": adam}) == []
    offload = {"offload_optimizer": {"device": "nvme"}}
    own = {"type": "Adam", "params": {}}
    assert native_code.ops_needed({"optimizer": own, "zero_optimization": offload}) == [
        "AsyncIOBuilder",
        "CPUAdamBuilder",
    ]


@pytest.mark.parametrize(
    ("method", "outgrow"),
    [
        ({"name": "translation"}, False),
        ({"name": "lssd"}, False),
        ({"name": "lssd", "teachers": {"weights_gib": 0.0}}, True),
        ({"name": "intra_distillation", "base": {"name": "lssd", "teachers": {"weights_gib": 1e-6}}}, True),
        ({"name": "lssd", "teachers": {"weights_gib": 0.0, "read": "mapped"}}, False),
    ],
)
def test_asynchronous_reads_are_built_where_teachers_may_outgrow_memory(
    method: dict[str, Any], outgrow: bool, tmp_path: Path
) -> None:
    assert node_report.may_read_teachers_from_disk(recipe(tmp_path, tmp_path / "run", method=method), 100) == outgrow


def test_what_travels_to_a_node() -> None:
    given = {"NCCL_DEBUG": "INFO", "WANDB_API_KEY": "secret", "OMP_X": 'a"b', "HOME": "/x", "PATH": "/bin"}
    variables = forwarded_variables(given)
    assert variables["NCCL_DEBUG"] == "INFO" and variables["PATH"].endswith(":/bin")
    assert not {"WANDB_API_KEY", "OMP_X", "HOME"} & set(variables)
    words = RemoteShell("pdsh", 7).command("far", ["a b", "c"], {"X": "1 2"})
    assert words[0] == "ssh" and words[-2] == "far" and words[-1].endswith("exec env X='1 2' 'a b' c")
    assert words[words.index("-p") :][:2] == ["-p", "7"]
    assert RemoteShell("slurm").command("far", ["c"], {})[:5] == [
        "srun", "--overlap", "--nodes=1", "--ntasks=1", "--nodelist=far",
    ]  # fmt: skip


SECRETS = {
    "HF_TOKEN": "hf_x", "HUGGING_FACE_HUB_TOKEN": "x", "WANDB_API_KEY": "x", "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_SESSION_TOKEN": "x", "MLFLOW_TRACKING_PASSWORD": "x", "MLFLOW_TRACKING_TOKEN": "x", "NCCL_SECRET": "x",
    "PYTHON_KEYRING_PASSWORD": "x", "MNMT_DS_TOKEN": "x", "TORCH_API_KEY": "x", "OMP_CREDENTIALS": "x",
    "TORCH_MIRROR": "https://user:password@mirror", "HF_ENDPOINT": "https://user:password@mirror",
}  # fmt: skip


def test_no_secret_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Not in our command lines, nor in DeepSpeed's, which has what the launcher's environment and file have."""
    plain = {"NCCL_DEBUG": "INFO", "HF_HOME": "/hf", "TORCH_HOME": "/t", "UCX_TLS": "tcp", "NCCL_IB_PKEY": "1"}
    assert plain.items() <= forwarded_variables({**SECRETS, **plain}).items()
    assert not SECRETS.keys() & forwarded_variables({**SECRETS, **plain}).keys()
    assert (
        not {"MLFLOW_TRACKING_PASSWORD", "PYTHON_KEYRING_PASSWORD"}
        & job._without_exported_secrets({**SECRETS, **plain}).keys()
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".deepspeed_env").write_text("A=1\nHF_TOKEN=hf_x\nPROXY=http://me:hidden@host\n")
    with caplog.at_level("WARNING", logger="mnmt_ds"):
        assert job._user_variables() == ["A=1"]
    (tmp_path / ".deepspeed_env").write_bytes(b"A=1\nNAME=caf\xe9\n")
    with pytest.raises(UserError, match=r"^\.deepspeed_env:2: byte 12 is not UTF-8; save the file as UTF-8$"):
        job._user_variables()
    (tmp_path / ".deepspeed_env").write_bytes(b"A=1\nB=2\nC=\0\n")
    with pytest.raises(UserError, match=r"^\.deepspeed_env:3: a NUL character; remove it$"):
        job._user_variables()
    assert "HF_TOKEN stays here" in caplog.text and "hf_x" not in caplog.text and "hidden" not in caplog.text


def test_a_watchdog_ends_what_is_left_of_its_job_and_nothing_else() -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(100)"]
    bare = {name: value for name, value in os.environ.items() if name not in ("RANK", JOB_VARIABLE)}
    mine, by_mpirun, helper, other = (
        subprocess.Popen(sleeper, env={**bare, JOB_VARIABLE: job, **more})
        for job, more in (
            ("j1", {"RANK": "0"}), ("j1", {"OMPI_COMM_WORLD_RANK": "1"}), ("j1", {}), ("j2", {"RANK": "0"})
        )
    )  # fmt: skip
    watchdog = subprocess.Popen(
        [sys.executable, "-m", "mnmt_ds.launching.watchdog", "j1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, cwd=ROOT,
    )  # fmt: skip
    assert watchdog.stdout is not None and watchdog.stdin is not None
    assert watchdog.stdout.readline() == "watching\n"
    watchdog.stdin.write("stop\n")
    watchdog.stdin.flush()
    assert mine.wait(20) == -15 and by_mpirun.wait(20) == -15
    time.sleep(0.3)
    assert helper.poll() is None
    watchdog.stdin.close()
    assert helper.wait(20) == -15 and watchdog.stdout.read() == "left 0\n"
    assert other.poll() is None
    other.kill()


def test_ranks_that_differ_say_where() -> None:
    here = os.uname().nodename
    wanted = f"node {here}: rank 1 has data 1, rank 0 on {here} has 0; make them the same"
    assert on_ranks(2, differ) == [wanted, wanted]


def differ() -> str:
    from mnmt_ds.distributed import rank
    from mnmt_ds.errors import UserError

    try:
        same_everywhere({"torch": "x", "data": str(rank())})
    except UserError as error:
        return str(error)
    return ""


def test_what_pdsh_says_of_nodes_that_failed() -> None:
    """Killed processes, too: pdsh's own exit status counts them as 0."""
    events: queue.Queue[job.Event] = queue.Queue()
    lines = ("pdsh@here: a: ssh exited with exit code 3", "a: pdsh@x: b: ssh", "pdsh@here: b: ssh killed by signal 9")
    job._forward_messages(io.StringIO("\n".join(lines) + "\n"), events)
    assert [events.get_nowait() for _ in range(events.qsize())] == [("ended", "a", "3"), ("ended", "b", "137")]
