"""Asks every node of a job before it starts, and compares: a line for each thing that would go wrong."""

import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mnmt_ds.engine.start_faults import load_for_start
from mnmt_ds.errors import UserError
from mnmt_ds.launching.node_report import NodeReport, parse_output
from mnmt_ds.launching.remote import RemoteShell, forwarded_variables, python_command, run_on_node

TIMEOUT = 900.0
"""Seconds that a node has to build its native code and answer."""


class PreflightResult(NamedTuple):
    """Reports of the nodes, and what is wrong with them."""

    reports: dict[str, NodeReport]
    """By node; a node that gave none is among the faults."""
    faults: list[str]
    """One line each, with the node's name."""


def preflight(
    nodes: Mapping[str, int], shell: RemoteShell, recipe: Path, overrides: Sequence[str], rehash: bool = False
) -> PreflightResult:
    """Checks all nodes at once; native code is built on each meanwhile.

    Args:
        nodes: processes to start, by node.
        shell: how nodes are reached.
        recipe: path of the recipe.
        overrides: settings that replace the recipe's, ``a.b=c``.
        rehash: whether all prepared data is read again and its hashes compared.

    Returns:
        The nodes' reports and all faults.

    Raises:
        UserError: when the recipe is not valid or its run directory cannot be written.
    """
    directory = load_for_start(recipe, overrides).directory
    token = directory / f".preflight-{secrets.token_hex(8)}" if len(nodes) > 1 else None
    if token is not None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            token.touch()
        except OSError as error:
            raise UserError(f"{directory}: cannot be written ({error.strerror}); set another directory") from None
    arguments = [str(recipe), *overrides, "--node", token.name if token else ""]
    words = python_command("mnmt_ds.cli.main", "preflight", *arguments, *(["--rehash"] if rehash else []))
    try:
        with ThreadPoolExecutor(len(nodes)) as pool:
            futures = {name: pool.submit(check_node, shell, name, words) for name in nodes}
            answers = {name: future.result() for name, future in futures.items()}
    finally:
        if token is not None:
            token.unlink(missing_ok=True)
    reports = {name: answer for name, answer in answers.items() if isinstance(answer, NodeReport)}
    faults = [f"node {name}: {answer}" for name, answer in answers.items() if isinstance(answer, str)]
    return PreflightResult(reports, faults + compare_reports(nodes, reports, directory))


def check_node(shell: RemoteShell, name: str, words: Sequence[str]) -> NodeReport | str:
    """Runs the check on one node.

    Args:
        shell: how nodes are reached.
        name: the node's name.
        words: the check's program and arguments.

    Returns:
        The node's report, or why there is none.
    """
    try:
        result = run_on_node(shell, name, words, TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT:.0f} s; look what hangs there"
    except OSError as error:
        return f"{error.filename} cannot be run ({error.strerror}); install it"
    report = parse_output(result.stdout)
    if report is not None:
        return report
    last = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
    if shell.unreachable(result.returncode):
        return f"cannot be reached ({last}); 'ssh {name}' must work without a password"
    return f"the check failed there with exit code {result.returncode} ({last})"


def compare_reports(nodes: Mapping[str, int], reports: Mapping[str, NodeReport], directory: Path) -> list[str]:
    """Collects the faults of each node, and its differences from the first that answered.

    Args:
        nodes: processes to start, by node.
        reports: the nodes' reports, by node.
        directory: the run's directory.

    Returns:
        Faults, a line each.
    """
    faults = [f"node {name}: {fault}" for name, report in reports.items() for fault in report.faults]
    if not reports:
        return faults
    first, reference = next(iter(reports.items()))
    accelerator = os.environ.get("DS_ACCELERATOR", forwarded_variables().get("DS_ACCELERATOR", ""))
    on_gpus = accelerator == "cuda" or (accelerator != "cpu" and any(report.gpus for report in reports.values()))
    for name, report in reports.items():
        for quantity, value in report.must_match.items():
            if value != (expected := reference.must_match.get(quantity, value)):
                faults.append(f"node {name}: {quantity} {value}, but {expected} on {first}; make them the same")
        if not report.shared:
            faults.append(
                f"node {name}: {directory} is not the directory that the launching node sees;"
                " put the run on a file system that all nodes share"
            )
        if on_gpus and report.gpus < nodes[name]:
            faults.append(
                f"node {name}: {report.gpus} GPU(s) visible, {nodes[name]} wanted; correct its slots or its driver"
            )
    return faults
