"""What a process computes on: DS_ACCELERATOR's word counts, also on a machine with GPUs."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import mnmt_ds
from mnmt_ds.distributed import choose_accelerator, device, free_port, job, uses_gpu
from mnmt_ds.engine.parallel.ds_config import resolve
from mnmt_ds.engine.parallel.random_state import use_deterministic_algorithms
from mnmt_ds.engine.parallel.run_layout import check_run_layout
from mnmt_ds.engine.settings import TrainSettings
from mnmt_ds.errors import UserError
from mnmt_ds.launching.native_code import ops_needed
from mnmt_ds.launching.node_report import NodeReport
from mnmt_ds.launching.preflight import compare_reports
from tests.tiny import recipe

MAY_ASK = {"distributed.py", "kernels/cuda.py", "kernels/triton_loss.py", "cli/translate.py"}
"""Files that ask torch for a GPU whatever DS_ACCELERATOR says: its reader, and what was asked for by name."""


@pytest.fixture
def gpu_machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_accelerator_that_is_named_is_used(gpu_machine: pytest.MonkeyPatch) -> None:
    gpu_machine.setenv("LOCAL_RANK", "3")
    assert (uses_gpu(), device()) == (False, torch.device("cpu"))
    for value in ("cuda", ""):
        gpu_machine.setenv("DS_ACCELERATOR", value)
        assert (uses_gpu(), device()) == (True, torch.device("cuda", 1))
        choose_accelerator()
        assert os.environ["DS_ACCELERATOR"] == "cuda"


def test_a_job_on_the_cpu_of_a_machine_with_gpus(gpu_machine: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        gpu_machine.setenv(name, "0" if "RANK" in name else "1")
    gpu_machine.setenv("MASTER_ADDR", "127.0.0.1")
    gpu_machine.setenv("MASTER_PORT", "0")
    with job():
        assert dist.get_backend() == "gloo"
        value = torch.ones(1, device=device())
        dist.all_reduce(value)
    assert ops_needed({"optimizer": {"type": "AdamW", "params": {}}}) == ["CPUAdamBuilder"]


@pytest.mark.parametrize(("wanted", "gpus"), [("cuda", False), ("xpu", True)])
def test_an_accelerator_that_is_not_there(gpu_machine: pytest.MonkeyPatch, wanted: str, gpus: bool) -> None:
    gpu_machine.setattr(torch.cuda, "is_available", lambda: gpus)
    gpu_machine.setenv("DS_ACCELERATOR", wanted)
    with pytest.raises(UserError, match=f"DS_ACCELERATOR={wanted}"), job():
        pass


def test_preflight_counts_gpus_only_where_they_are_used(gpu_machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reports = {"a": NodeReport({}, 1, "127.0.0.1", True, [])}
    assert compare_reports({"a": 4}, reports, tmp_path) == []
    gpu_machine.setenv("DS_ACCELERATOR", "cuda")
    assert "1 GPU(s) visible, 4 wanted" in compare_reports({"a": 4}, reports, tmp_path)[0]


def test_one_connection_is_refused_where_collectives_run_beside_others(gpu_machine: pytest.MonkeyPatch) -> None:
    gpu_machine.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    gpu_machine.setenv("DS_ACCELERATOR", "cuda")
    taught = recipe(Path("data"), Path("run"), method={"name": "lssd"})
    with pytest.raises(UserError, match="CUDA_DEVICE_MAX_CONNECTIONS=1: collectives for teachers"):
        check_run_layout(taught, {}, ranks=2)
    check_run_layout(taught, {}, ranks=1)
    check_run_layout(recipe(Path("data"), Path("run")), {}, ranks=2)
    gpu_machine.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "8")
    check_run_layout(taught, {}, ranks=2)


def test_gradients_are_reduced_beside_the_backward_on_gpus(gpu_machine: pytest.MonkeyPatch) -> None:
    config = {"zero_optimization": {"stage": 1}}
    assert resolve(config, TrainSettings(), 2, "x.json")["zero_optimization"] == {"stage": 1}
    gpu_machine.setenv("DS_ACCELERATOR", "cuda")
    filled = resolve(config, TrainSettings(), 2, "x.json")["zero_optimization"]
    assert filled == {"stage": 1, "overlap_comm": True, "reduce_bucket_size": 50_000_000}
    given = {"zero_optimization": {"stage": 2, "overlap_comm": False}}
    assert not resolve(given, TrainSettings(), 2, "x.json")["zero_optimization"]["overlap_comm"]
    assert resolve(config, TrainSettings(), 1, "x.json")["zero_optimization"] == {"stage": 1}


def test_deterministic_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    try:
        use_deterministic_algorithms()
        assert (
            torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
        )
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_nothing_else_asks_torch_for_a_gpu() -> None:
    root = Path(mnmt_ds.__file__).parent
    asking = {str(file.relative_to(root)) for file in root.rglob("*.py") if "cuda.is_available" in file.read_text()}
    assert asking == MAY_ASK


def _join(port: int, rank: int, size: int) -> str:
    """What a rank that cannot join the others says, in a process of its own."""
    code = (
        "from mnmt_ds.distributed import job\n"
        "from mnmt_ds.errors import RunError\n"
        "try:\n"
        "    with job(0.05):\n"
        "        print('joined')\n"
        "except RunError as error:\n"
        "    print(error)\n"
    )
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(size)}
    env = {**os.environ, **place, "DS_ACCELERATOR": "cpu"}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


def test_a_port_that_another_job_has_is_named_with_a_free_one() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = _join(port, 0, 1)
    assert line.startswith(f"127.0.0.1:{port}: another job of this machine has the port; name a free one")
    assert int(line.split("--master_port ")[1].split(",")[0]) not in (0, port)


def test_a_free_port_is_not_one_that_connections_get(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system gives no such port to others meanwhile; one that is taken is passed over."""
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = [free_port() for _ in range(5)]
    assert all(10_000 <= port < first_given for port in ports) and len(set(ports)) > 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))
        monkeypatch.setattr("random.SystemRandom.sample", lambda self, own, count: [ports[0]])
        assert free_port() not in (ports[0], 0)
