"""The fused loss against its peers: time, peak memory, share of the lower bound.

Checks that all compute the same before it times anything. Peers take turns within each round, so that a busy machine
slows all alike. Times on a GPU are those of its own clock; memory there is torch's own count, on a CPU that of a
process a peer.

Letters: N tokens, D width, V vocabulary.
"""

import argparse
import datetime
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from mnmt_ds.bench.loss_baselines import (
    APPROXIMATE,
    BASELINES,
    FULL_MATRICES,
    KL_BASELINES,
    OURS,
    WITH_PASSES,
    Inputs,
    Unsupported,
    make_inputs,
    teacher_entropy,
)
from mnmt_ds.bench.measuring import processor, seconds_of_device
from mnmt_ds.config.paths import path_option
from mnmt_ds.config.ranges import number_option
from mnmt_ds.distributed import uses_gpu
from mnmt_ds.errors import UserError
from mnmt_ds.files import write_json, write_text

HELP = "the fused cross-entropy with teacher against PyTorch, liger-kernel and others"
TASKS = {
    "ce": (0.0, 0.1, 1),
    "ce-plain": (0.0, 0.0, 1),
    "kd": (0.6, 0.1, 1),
    "kd-plain": (0.6, 0.0, 1),
    "divergence": (0.0, 0.1, 2),
}
"""Name: (teacher's weight, smoothing, passes). The plain ones are for peers that know no smoothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's arguments.

    Args:
        parser: the benchmark's parser.
    """
    parser.add_argument(
        "--tokens", type=number_option(int, ge=1), nargs="+", default=[1024, 2048], help="tokens N (1024 to 16384)"
    )
    parser.add_argument("--width", type=number_option(int, ge=1), nargs="+", default=[512], help="model width d")
    parser.add_argument("--vocabulary", type=number_option(int, ge=1), nargs="+", default=[32000], help="vocabulary V")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--peers", nargs="+", default=list(BASELINES), choices=list(BASELINES))
    parser.add_argument(
        "--rounds", type=number_option(int, ge=1), default=3, help="rounds in which every peer has its turn"
    )
    parser.add_argument("--device", default="cuda" if uses_gpu() else "cpu")
    parser.add_argument("--dtype", default=None, choices=["float32", "bfloat16", "float16"], help="default: by device")
    parser.add_argument(
        "--floor",
        type=number_option(float, gt=0),
        default=None,
        help="TFLOP/s of the machine, for the share of the floor",
    )
    parser.add_argument(
        "--results", type=path_option, default=None, help="directory of the dated result file; default: none"
    )
    parser.add_argument("--peak", metavar="PEER", help=argparse.SUPPRESS)  # a child that measures one peer's memory


def run(args: argparse.Namespace) -> int:
    """Measures, prints the figures, and writes a dated result file where ``--results`` says so.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code 0.

    Raises:
        UserError: when there is no GPU, or a peer's loss or gradients differ from the baseline's.
    """
    if args.device == "cuda" and not uses_gpu():
        raise UserError("--device cuda: torch sees no GPU here, or DS_ACCELERATOR=cpu; use --device cpu")
    dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    if args.peak:
        return _print_peak(args, dtype)
    warnings.filterwarnings("ignore", message="linear_cross_entropy")
    floor = args.floor or _measured_flops(args.device, dtype)
    rows: list[dict[str, Any]] = []
    for tokens in args.tokens:
        for width in args.width:
            for vocabulary in args.vocabulary:
                for task in args.tasks:
                    rows += _problem(args, dtype, tokens, width, vocabulary, task, floor)
    result = {
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "command": "mnmt-ds bench loss " + " ".join(sys.argv[3:]),
        "machine": torch.cuda.get_device_name() if args.device == "cuda" else processor(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "load_average": round(os.getloadavg()[0], 1),
        "tflops_of_a_plain_product": round(floor, 3),
        "rows": rows,
    }
    if args.results:
        name = f"loss-{args.device}-{datetime.date.today().isoformat()}"
        write_json(args.results / f"{name}.json", result)
        write_text(args.results / f"{name}.md", _page(result))
        print(f"written: {args.results / name}.json and .md")
    return 0


def _problem(
    args: argparse.Namespace, dtype: str, tokens: int, width: int, vocabulary: int, task: str, floor: float
) -> list[dict[str, Any]]:
    """Compares all peers on one problem, after checking that they compute the same."""
    x = make_inputs(tokens, width, vocabulary, *TASKS[task], args.device, dtype)
    rows: list[dict[str, Any]] = []
    able_peers = []
    print(f"\nN {tokens}, d {width}, V {vocabulary}, {task}, {dtype} on {args.device}")
    free_bytes = _free_bytes(args.device)
    baseline = "eager" if _needed_bytes("eager", x) < free_bytes else "chunked"
    expected = _loss_and_gradients(baseline, x)
    for name in args.peers:
        try:
            if _needed_bytes(name, x) >= free_bytes:
                needed, free = _needed_bytes(name, x) / 2**30, free_bytes / 2**30
                raise Unsupported(f"would hold {needed:.0f} GiB, {free:.0f} are free")
            if x.passes > 1 and name not in WITH_PASSES:
                raise Unsupported("no divergence of passes")
            if name == "ours_without_divergence":
                BASELINES[name](x)
                able_peers.append(name)
                continue
            _check_same(name, _loss_and_gradients(name, x), expected, x, dtype)
            able_peers.append(name)
        except Unsupported as error:
            print(f"  {name:22} left out: {error}")
    seconds: dict[str, list[float]] = {name: [] for name in able_peers}
    for _ in range(args.rounds):
        for name in able_peers:
            seconds[name].append(_seconds(name, x))
    flops = (8 if x.weight else 6) * x.passes * tokens * width * vocabulary
    del expected
    for name in able_peers:
        ordered = sorted(seconds[name])
        ratio = [0.0]
        if "ours" in able_peers:
            ratio = sorted(a / b for a, b in zip(seconds[name], seconds["ours"], strict=True))
        if args.device == "cuda":
            peak = _peak_on_device(name, x)
        else:
            peak = _peak_in_child(args, name, tokens, width, vocabulary, task, dtype)
        row = {
            "tokens": tokens, "width": width, "vocabulary": vocabulary, "task": task, "peer": name,
            "milliseconds": round(ordered[len(ordered) // 2] * 1e3, 2), "best": round(ordered[0] * 1e3, 2),
            "times_ours": round(ratio[len(ratio) // 2], 2), "peak_mib": round(peak, 1),
            "share_of_floor": round(flops / ordered[0] / 1e12 / floor, 3),
        }  # fmt: skip
        rows.append(row)
        print(
            f"  {name:22} {row['milliseconds']:10.1f} ms  best {row['best']:10.1f}  x ours {row['times_ours']:6.2f}"
            f"  peak {row['peak_mib']:8.1f} MiB  of floor {row['share_of_floor']:6.1%}",
            flush=True,
        )
    return rows


def _loss_and_gradients(name: str, x: Inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A peer's loss, and its gradients of states and projection."""
    loss = BASELINES[name](x)
    hidden_ND, projection_VD = torch.autograd.grad(loss, (x.hidden_ND, x.projection_VD))
    return loss.detach(), hidden_ND, projection_VD


def _check_same(name: str, actual: Any, expected: Any, x: Inputs, dtype: str) -> None:
    """UserError where loss (up to the teacher's entropy, where a peer has a KL divergence) or a gradient differs."""
    tolerance = (1e-4 if dtype == "float32" else 3e-2) * (10 if name in APPROXIMATE else 1)
    entropy = teacher_entropy(x) if name in KL_BASELINES else 0.0
    for quantity, a, b in zip(
        ("loss", "hidden", "projection"), (actual[0] + entropy, *actual[1:]), expected, strict=True
    ):
        worst, scale = float((a.float() - b.float()).abs().max()), float(b.float().abs().max())
        if not worst <= tolerance * scale:
            raise UserError(
                f"bench loss: {name}'s {quantity} differs by {worst:.2e} of {scale:.2e} from the baseline;"
                " nothing timed"
            )


def _needed_bytes(name: str, x: Inputs) -> float:
    """Bytes of the (N, V) matrices that a peer holds at once."""
    without, with_teacher = FULL_MATRICES.get(name, (0, 0))
    return 4.0 * (with_teacher if x.weight else without) * x.hidden_ND.shape[0] * x.projection_VD.shape[0]


def _free_bytes(device: str) -> float:
    """Bytes that are free, a tenth held back."""
    if device == "cuda":
        return 0.9 * float(torch.cuda.mem_get_info()[0])
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 0.9 * 1024 * float(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))


def _seconds(name: str, x: Inputs) -> float:
    """Times one forward and backward of a peer."""
    x.hidden_ND.grad = x.projection_VD.grad = None
    return seconds_of_device(lambda: BASELINES[name](x).backward(), x.hidden_ND.device.type)  # type: ignore[no-untyped-call]


def _print_peak(args: argparse.Namespace, dtype: str) -> int:
    """In a process of its own: prints the MiB above the inputs that one forward and backward needs."""
    warnings.simplefilter("ignore")
    tokens, width, vocabulary, task = args.tokens[0], args.width[0], args.vocabulary[0], args.tasks[0]
    small = make_inputs(64, 32, 128, *TASKS[task], args.device, dtype)
    _seconds(args.peak, small)  # imports, libraries and thread pools are not counted
    x = make_inputs(tokens, width, vocabulary, *TASKS[task], args.device, dtype)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    resident = _status("VmRSS")
    _seconds(args.peak, x)
    print(f"peak {(_status('VmHWM') - resident) / 1024}")
    return 0


def _peak_on_device(name: str, x: Inputs) -> float:
    """MiB of the GPU above the inputs that one forward and backward needs, gradients included."""
    x.hidden_ND.grad = x.projection_VD.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    allocated = torch.cuda.memory_allocated()
    _seconds(name, x)
    return (torch.cuda.max_memory_allocated() - allocated) / 2**20


def _status(field: str) -> float:
    """A figure of this process in KiB, from the kernel."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return float(line.split()[1])


def _peak_in_child(
    args: argparse.Namespace, name: str, tokens: int, width: int, vocabulary: int, task: str, dtype: str
) -> float:
    """Measures a peer's memory in a process of its own."""
    command = [sys.executable, "-m", "mnmt_ds.bench.loss", "--peak", name, "--tasks", task, "--device", args.device]
    command += ["--tokens", str(tokens), "--width", str(width), "--vocabulary", str(vocabulary), "--dtype", dtype]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    peaks = [line.split()[1] for line in process.stdout.splitlines() if line.startswith("peak ")]
    if not peaks:
        last_line = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"bench loss: {name} failed alone: {last_line}")
    return float(peaks[0])


def _measured_flops(device: str, dtype: str) -> float:
    """TFLOP/s of torch's own large product here, the best of six: what "of floor" is a share of."""
    size = 8192 if device == "cuda" else 2048  # on a GPU smaller ones are over before their launch is
    a = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    best = min(seconds_of_device(lambda: a @ a, device) for _ in range(6))
    return 2 * size**3 / best / 1e12


def _page(result: dict[str, Any]) -> str:
    """The results as a page of Markdown."""
    head = [
        f"# Fused loss, {result['date']}", "",
        f"`{result['command']}`", "",
        f"{result['machine']}, torch {result['torch']}, {result['threads']} threads, {result['dtype']}; a plain "
        f"product runs at {result['tflops_of_a_plain_product']} TFLOP/s. Forward and backward; median of rounds in "
        f"which all take turns (load average at the end: {result['load_average']}); "
        "memory above the inputs, gradients included.", "",
        "| N | d | V | task | peer | ms | best ms | times ours | peak MiB | of floor |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    body = [
        f"| {r['tokens']} | {r['width']} | {r['vocabulary']} | {r['task']} | "
        f"{'**' + r['peer'] + '**' if r['peer'] in OURS else r['peer']} | {r['milliseconds']} | {r['best']} | "
        f"{r['times_ours']} | {r['peak_mib']} | {r['share_of_floor']:.1%} |"
        for r in result["rows"]
    ]
    return "\n".join([*head, *body]) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
