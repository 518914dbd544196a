"""Starts DeepSpeed's launcher on checked nodes, and watches every node until the job's end.

DeepSpeed's launcher alone trains on this node only where a hostfile is missing, leaves the other nodes' ranks waiting
for a lost one until a timeout, and passes no signal on. Here the end of one node ends the job, and says its name.
"""

import contextlib
import os
import queue
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mnmt_ds.errors import UserError
from mnmt_ds.launching.hostfile import read_hostfile
from mnmt_ds.launching.preflight import preflight
from mnmt_ds.launching.reach import Reach, is_here, passed_variables, python
from mnmt_ds.launching.watch import JOB

PDSH_EXIT = re.compile(r"pdsh@\S+: (?P<node>\S+): \S+ exited with exit code (?P<code>[1-9]\d*)")
BEAT = 2.0
"""Seconds between two signs of life to the nodes."""
LAST_WORDS = 8.0
"""Seconds in which the other nodes may end by themselves, and say why, after one has failed."""


def say(text: str) -> None:
    """A line of the launcher's own."""
    print(f"launch: {text}", file=sys.stderr, flush=True)


def launch(options: Sequence[str], script: Path, recipe: str, rest: Sequence[str], checks: bool = True) -> int:
    """Trains a recipe under DeepSpeed's launcher with these options of its; returns the exit code.

    UserError where hostfile or nodes are not fit; every other fault of a node is a line of its own, and code 2.
    """
    from deepspeed.launcher import runner

    args = runner.parse_args([*options, str(script), recipe, *rest])
    nodes, remote = _nodes(args, runner)
    reach = Reach(args.launcher.lower(), args.ssh_port)
    master = args.master_addr
    if checks:
        overrides = [word for word in rest if "=" in word and not word.startswith("-")]
        answers = preflight(nodes, reach, Path(recipe), overrides)
        for fault in answers.faults:
            say(fault)
        if answers.faults:
            say(f"{len(answers.faults)} fault(s); nothing was started")
            return 2
        master = master or next(iter(answers.facts.values())).address
    variables = passed_variables() | {JOB: secrets.token_hex(8), "MASTER_PORT": str(_port(args, options, remote))}
    variables |= {"MASTER_ADDR": master} if master else {}
    command = [_deepspeed(), *options, "--master_port", variables["MASTER_PORT"]]
    if remote:
        say(f"{len(nodes)} node(s), {sum(nodes.values())} slot(s): {', '.join(nodes)}")
        command += ["--force_multi", "--no_ssh_check", *(["--master_addr", master] if master else [])]
    with tempfile.NamedTemporaryFile("w", prefix="mnmt_ds-env-") as file:
        file.writelines([*_own_variables(), *(f"{name}={value}\n" for name, value in variables.items())])
        file.flush()
        environment = {**os.environ, JOB: variables[JOB]} | ({"DS_ENV_FILE": file.name} if remote else {})
        return supervise([*command, str(script), recipe, *rest], environment, nodes, reach, variables[JOB])


def supervise(
    command: Sequence[str], environment: Mapping[str, str], nodes: Mapping[str, int], reach: Reach, job: str
) -> int:
    """Runs a launcher to its end, or ends the job on all nodes where one fails, is lost, or the user insists."""
    events: queue.Queue[tuple[str, Any, Any]] = queue.Queue()
    watchers = {name: _watcher(reach, name, job, events) for name in nodes}
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    for number in before:
        signal.signal(number, lambda number, frame: events.put(("signal", number, None)))
    failed, patience, stops, beaten = False, float("inf"), 0, 0.0
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True, errors="replace"
    )
    reader = threading.Thread(target=_relay, args=(process.stderr, events), daemon=True)
    reader.start()
    try:
        while process.poll() is None and time.monotonic() < patience:
            if time.monotonic() - beaten > BEAT:
                beaten = time.monotonic()
                _tell(watchers, "alive")
            try:
                what, whom, detail = events.get(timeout=0.2)
            except queue.Empty:
                continue
            if what == "signal":
                stops += 1
                if stops > 1:
                    failed, patience = True, 0.0
                else:
                    say(f"signal {whom}: asking all ranks to save and leave; once more ends the job at once")
                    _tell(watchers, "stop")
            elif what == "ended":
                say(f"node {whom}: ended with exit code {detail}; ending the job on all nodes")
                failed, patience = True, min(patience, time.monotonic() + LAST_WORDS)
            elif what == "lost":
                say(f"node {whom}: lost (its connection ended); ending the job on all nodes")
                failed, patience = True, 0.0
    finally:
        left = _end(watchers, process)
        for number, handler in before.items():
            signal.signal(number, handler)
    reader.join(5)
    for name, count in left.items():
        say(f"node {name}: {count} rank(s) were still there and were ended")
    code = process.returncode
    return code if code > 0 else int(failed or code < 0 or bool(left))


def _watcher(reach: Reach, name: str, job: str, events: "queue.Queue[tuple[str, Any, Any]]") -> "subprocess.Popen[str]":
    """A connection to a node's watcher, which is at work when this returns."""
    words = reach.command(name, python("mnmt_ds.launching.watch", job), passed_variables())
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    if process.stdout.readline().strip() != "watching":
        raise UserError(f"node {name}: no watch can be kept there; see the messages above")

    def wait() -> None:
        process.wait()
        events.put(("lost", name, None))

    threading.Thread(target=wait, daemon=True).start()
    return process


def _tell(watchers: "Mapping[str, subprocess.Popen[str]]", line: str) -> None:
    for process in watchers.values():
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # where it is gone, an event says so
            process.stdin.write(line + "\n")
            process.stdin.flush()


def _end(watchers: "Mapping[str, subprocess.Popen[str]]", process: "subprocess.Popen[str]") -> dict[str, int]:
    """Ends what is left of the job everywhere; ranks that were left, by node."""
    until = time.monotonic() + 15
    for watcher in watchers.values():
        assert watcher.stdin is not None
        with contextlib.suppress(OSError):
            watcher.stdin.close()
    left = {}
    for name, watcher in watchers.items():
        assert watcher.stdout is not None
        try:
            watcher.wait(max(0.1, until - time.monotonic()))
            count = int((watcher.stdout.read().split() or ["0"])[-1])
            if count:
                left[name] = count
        except subprocess.TimeoutExpired:
            watcher.kill()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return left


def _relay(stream: IO[str] | None, events: "queue.Queue[tuple[str, Any, Any]]") -> None:
    """Passes the launcher's messages on; pdsh tells by them how a node ended."""
    assert stream is not None
    for line in stream:
        sys.stderr.write(line)
        sys.stderr.flush()
        match = PDSH_EXIT.match(line)
        if match:
            events.put(("ended", match["node"], match["code"]))


def _nodes(args: Any, runner: Any) -> tuple[dict[str, int], bool]:
    """Processes by node, after DeepSpeed's own filters; whether they are started from afar."""
    hostfile = Path(args.hostfile)
    if not hostfile.exists() and args.hostfile == runner.DLTS_HOSTFILE:
        if args.num_nodes > 1:
            raise UserError(f"--num_nodes {args.num_nodes}: needs a hostfile; give --hostfile FILE")
        return {"localhost": max(1, args.num_gpus)}, False
    pool = read_hostfile(hostfile)
    try:
        active = runner.parse_inclusion_exclusion(pool, args.include, args.exclude)
    except ValueError as error:
        raise UserError(f"{hostfile}: {error}") from None
    active = runner.apply_num_nodes_and_gpus(active, args.num_nodes, args.num_gpus)
    nodes = {name: len(slots) for name, slots in active.items()}
    remote = not args.no_ssh and (args.force_multi or len(nodes) > 1 or not is_here(next(iter(nodes))))
    return ({"localhost": list(nodes.values())[max(args.node_rank, 0)]} if args.no_ssh else nodes), remote


def _port(args: Any, options: Sequence[str], remote: bool) -> int:
    """A given port; a free one of this machine; or, for another machine, one that is unlikely to be in use."""
    if any(word.split("=")[0] == "--master_port" for word in options):
        return int(args.master_port)
    if remote:
        return 20000 + secrets.randbelow(10000)
    from mnmt_ds.distributed import free_port

    return free_port()


def _own_variables() -> list[str]:
    """What the user's own file of variables for DeepSpeed says, which ours stands in for."""
    name = os.environ.get("DS_ENV_FILE", ".deepspeed_env")
    lines = []
    for place in (Path.home() / name, Path(name)):
        if place.is_file():
            lines += [f"{line.strip()}\n" for line in place.read_text("utf-8").splitlines() if "=" in line]
    return lines


def _deepspeed() -> str:
    beside = Path(sys.executable).with_name("deepspeed")
    found = str(beside) if beside.exists() else shutil.which("deepspeed")
    if found is None:
        raise UserError("no deepspeed command; run launchers/environment.sh's set-up first")
    return found
