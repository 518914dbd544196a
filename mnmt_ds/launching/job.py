"""Starts DeepSpeed's launcher on checked nodes, with a watchdog on every node until the job's end.

DeepSpeed's launcher alone trains on this node only where a hostfile is missing, leaves the other nodes' ranks waiting
for a lost one until a timeout, and passes no signal on. Here the end of one node ends the job, and a message names it.
"""

import contextlib
import logging
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
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mnmt_ds.errors import UserError
from mnmt_ds.launching.hostfile import read_hostfile
from mnmt_ds.launching.preflight import preflight
from mnmt_ds.launching.remote import RemoteShell, forwarded_variables, is_local, is_secret, python_command
from mnmt_ds.launching.watchdog import JOB_VARIABLE, READY

LOG = logging.getLogger(__name__)
PDSH_EXIT = re.compile(
    r"pdsh@\S+: (?P<node>\S+): \S+ (?:exited with exit code (?P<code>[1-9]\d*)|killed by signal (?P<signal>\d+))"
)
"""What pdsh says of a node that failed; its own exit status counts those that were killed as 0."""
UNBOUND = {"OMPI_MCA_hwloc_base_binding_policy": "none", "PRTE_MCA_hwloc_default_binding_policy": "none"}
"""Lets ranks run on all cores under OpenMPI 4 and 5, as under the other launchers; mpirun binds each of two to one."""
PROGRAMS = {"pdsh": "pdsh", "openmpi": "mpirun", "slurm": "srun"}
"""What starts a job's processes on other nodes, by DeepSpeed's name of the launcher."""
HEARTBEAT = 2.0
"""Seconds between two heartbeats to the nodes."""
FAILURE_GRACE = 8.0
"""Seconds in which the other nodes may end by themselves, and print why, after one has failed."""

Event = tuple[str, Any, Any]
"""What happened ("signal", "ended" or "lost"), to which node (or which signal), and its exit code."""


def launch(options: Sequence[str], script: Path, recipe: str, rest: Sequence[str], checks: bool = True) -> int:
    """Trains a recipe under DeepSpeed's launcher.

    Args:
        options: options of the ``deepspeed`` command.
        script: what each rank runs.
        recipe: path of the recipe.
        rest: the script's further arguments: ``--resume``, ``a.b=c``.
        checks: whether all nodes are checked first.

    Returns:
        The exit code; 2 where a node has a fault, which is logged.

    Raises:
        UserError: when the hostfile or the options do not fit.
    """
    from deepspeed.launcher import runner

    args = runner.parse_args([*options, str(script), recipe, *rest])
    nodes, remote = _nodes(args, runner)
    shell = RemoteShell(args.launcher.lower(), args.ssh_port)
    master = args.master_addr
    if checks:
        overrides = [word for word in rest if "=" in word and not word.startswith("-")]
        result = preflight(nodes, shell, Path(recipe), overrides)
        for fault in result.faults:
            LOG.error("launch: %s", fault)
        if result.faults:
            LOG.error("launch: %d fault(s); nothing was started", len(result.faults))
            return 2
        master = master or next(iter(result.reports.values())).address
    job, port = secrets.token_hex(8), str(_port(args, options, remote))
    variables = forwarded_variables() | {JOB_VARIABLE: job, "MASTER_PORT": port}
    variables |= {"MASTER_ADDR": master} if master else {}
    command = [_deepspeed(), *options, "--master_port", port]
    words, environment = [str(script), recipe, *rest], {**os.environ, JOB_VARIABLE: job}
    if not remote:  # DeepSpeed would ask this machine for its address by ssh where a hostfile names it
        command += [] if args.no_ssh else ["--no_ssh_check", "--master_addr", master or "127.0.0.1"]
        return supervise([*command, *words], environment, nodes, shell, job)
    LOG.info("launch: %d node(s), %d slot(s): %s", len(nodes), sum(nodes.values()), ", ".join(nodes))
    command += ["--force_multi", "--no_ssh_check", *(["--master_addr", master] if master else [])]
    assignments = [*_user_variables(), *(f"{name}={value}" for name, value in variables.items())]
    if shell.launcher == "openmpi":  # mpirun gets quotes that DeepSpeed puts round a value as part of the value
        command.append("--no_python")
        words, assignments = ["env", *assignments, sys.executable, "-u", *words], []
    with tempfile.NamedTemporaryFile("w", prefix="mnmt_ds-env-") as file:
        file.writelines(f"{line}\n" for line in assignments)
        file.flush()
        environment = {**UNBOUND, **_without_exported_secrets(environment), "DS_ENV_FILE": file.name}
        return supervise([*command, *words], environment, nodes, shell, job)


def supervise(
    command: Sequence[str], environment: Mapping[str, str], nodes: Mapping[str, int], shell: RemoteShell, job: str
) -> int:
    """Runs a launcher to its end, or ends the job on all nodes where one fails, is lost, or the user insists.

    Args:
        command: the launcher's program and arguments.
        environment: its environment variables.
        nodes: processes by node.
        shell: how nodes are reached.
        job: the job's name, the value of ``JOB_VARIABLE`` in each of its processes.

    Returns:
        The launcher's exit code; above 0 where a node failed, was lost, or had ranks left at the end.

    Raises:
        UserError: when no watchdog can be started on a node.
    """
    events: queue.Queue[Event] = queue.Queue()
    watchdogs = {name: _start_watchdog(shell, name, job, events) for name in nodes}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    for number in handlers:
        signal.signal(number, lambda number, frame: events.put(("signal", number, None)))
    failed, deadline, stops, last_heartbeat = False, float("inf"), 0, 0.0
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True, errors="replace"
    )
    reader = threading.Thread(target=_forward_messages, args=(process.stderr, events), daemon=True)
    reader.start()
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if time.monotonic() - last_heartbeat > HEARTBEAT:
                last_heartbeat = time.monotonic()
                _send(watchdogs, "alive")
            try:
                kind, origin, code = events.get(timeout=0.2)
            except queue.Empty:
                continue
            if kind == "signal":
                stops += 1
                if stops > 1:
                    failed, deadline = True, 0.0
                else:
                    LOG.info("launch: signal %d: asking all ranks to save and leave; once more ends the job at once",
                             origin)  # fmt: skip
                    _send(watchdogs, "stop")
            elif kind == "ended":
                LOG.error("launch: node %s: ended with exit code %s; ending the job on all nodes", origin, code)
                failed, deadline = True, min(deadline, time.monotonic() + FAILURE_GRACE)
            elif kind == "lost":
                LOG.error("launch: node %s: lost (its connection ended); ending the job on all nodes", origin)
                failed, deadline = True, 0.0
    finally:
        left = _end(watchdogs, process)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    reader.join(5)
    for name, count in left.items():
        LOG.error("launch: node %s: %d rank(s) were still there and were ended", name, count)
    code = process.returncode
    return code if code > 0 else int(failed or code < 0 or bool(left))


def _start_watchdog(shell: RemoteShell, name: str, job: str, events: "queue.Queue[Event]") -> "subprocess.Popen[str]":
    """A connection to a node's watchdog, which is at work when this returns."""
    words = shell.command(name, python_command("mnmt_ds.launching.watchdog", job), forwarded_variables())
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    if process.stdout.readline().strip() != READY:
        raise UserError(f"node {name}: no watchdog can be started there; see the messages above")

    def wait() -> None:
        """Reports the end of the connection."""
        process.wait()
        events.put(("lost", name, None))

    threading.Thread(target=wait, daemon=True).start()
    return process


def _send(watchdogs: "Mapping[str, subprocess.Popen[str]]", line: str) -> None:
    """Sends a line to every watchdog."""
    for process in watchdogs.values():
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # where it is gone, there is an event
            process.stdin.write(line + "\n")
            process.stdin.flush()


def _end(watchdogs: "Mapping[str, subprocess.Popen[str]]", process: "subprocess.Popen[str]") -> dict[str, int]:
    """Ends what is left of the job everywhere; ranks that were left, by node."""
    deadline = time.monotonic() + 15
    for watchdog in watchdogs.values():
        assert watchdog.stdin is not None
        with contextlib.suppress(OSError):
            watchdog.stdin.close()
    left = {}
    for name, watchdog in watchdogs.items():
        assert watchdog.stdout is not None
        try:
            watchdog.wait(max(0.1, deadline - time.monotonic()))
            count = int((watchdog.stdout.read().split() or ["0"])[-1])
            if count:
                left[name] = count
        except subprocess.TimeoutExpired:
            watchdog.kill()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return left


def _forward_messages(stream: IO[str] | None, events: "queue.Queue[Event]") -> None:
    """Passes the launcher's messages on; pdsh's report how a node ended."""
    assert stream is not None
    for line in stream:
        sys.stderr.write(line)
        sys.stderr.flush()
        match = PDSH_EXIT.match(line)
        if match:
            events.put(("ended", match["node"], match["code"] or str(128 + int(match["signal"]))))


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
    remote = not args.no_ssh and (args.force_multi or len(nodes) > 1 or not is_local(next(iter(nodes))))
    if remote:
        _check_launcher(args, runner.LAUNCHER_CLASSES)
    return ({"localhost": list(nodes.values())[max(args.node_rank, 0)]} if args.no_ssh else nodes), remote


def _check_launcher(args: Any, launchers: Collection[str]) -> None:
    """UserError where DeepSpeed cannot start processes on other nodes as it is asked to."""
    name = args.launcher.lower()
    if name not in launchers:
        raise UserError(f"--launcher {args.launcher}: DeepSpeed has none of that name; it has {', '.join(launchers)}")
    program = PROGRAMS.get(name)
    if program and shutil.which(program) is None:
        raise UserError(f"--launcher {name}: {program} is not installed here; install it, or name another one")
    if name == "openmpi" and (args.include or args.exclude or max(args.num_nodes, args.num_gpus) >= 0):
        raise UserError(
            "--launcher openmpi: takes no --include, --exclude, --num_nodes and --num_gpus; list in the hostfile the"
            " nodes and slots to use"
        )


def _port(args: Any, options: Sequence[str], remote: bool) -> int:
    """A given port; a free one of this machine; or, for another machine, one that is unlikely to be in use."""
    if any(word.split("=")[0] == "--master_port" for word in options):
        return int(args.master_port)
    if remote:
        return 20000 + secrets.randbelow(10000)
    from mnmt_ds.distributed import free_port

    return free_port()


def _user_variables() -> list[str]:
    """The lines of the user's own file of variables for DeepSpeed, which ours replaces; secrets are left out."""
    file_name = os.environ.get("DS_ENV_FILE", ".deepspeed_env")
    lines = []
    for path in (Path.home() / file_name, Path(file_name)):
        for line in _lines(path) if path.is_file() else ():
            name, equals, value = line.strip().partition("=")
            if equals and is_secret(name, value):
                LOG.warning("%s: %s stays here: it would stand in the command lines of all nodes", path, name)
            elif equals:
                lines.append(line.strip())
    return lines


def _lines(path: Path) -> list[str]:
    """The lines of a text file; UserError where it cannot be read."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{path}:{text.count(chr(10), 0, text.index(chr(0))) + 1}: a NUL character; remove it")
    return text.splitlines()


def _without_exported_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The launcher's environment without secrets that DeepSpeed would write into the nodes' command lines."""
    from deepspeed.accelerator import get_accelerator
    from deepspeed.launcher.runner import EXPORT_ENVS

    exported = tuple([*EXPORT_ENVS, *get_accelerator().export_envs()])
    return {
        name: value for name, value in environment.items() if not (name.startswith(exported) and is_secret(name, value))
    }


def _deepspeed() -> str:
    """The path of the deepspeed command."""
    beside = Path(sys.executable).with_name("deepspeed")
    command = str(beside) if beside.exists() else shutil.which("deepspeed")
    if command is None:
        raise UserError("no deepspeed command; run launchers/environment.sh's set-up first")
    return command
