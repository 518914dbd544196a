"""Asks every node of a job before it starts, and compares: a line for each thing that would go wrong."""

import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mnmt_ds.engine.recipe import load_recipe
from mnmt_ds.errors import UserError
from mnmt_ds.launching import node
from mnmt_ds.launching.node import Facts
from mnmt_ds.launching.reach import Reach, passed_variables, python, run

PATIENCE = 900.0
"""Seconds that a node has to build its native code and answer."""


class Answers(NamedTuple):
    """What the nodes said."""

    facts: dict[str, Facts]
    """By node; a node that gave none is among the faults."""
    faults: list[str]
    """One line each, with the node's name."""


def preflight(
    nodes: Mapping[str, int], reach: Reach, recipe: Path, overrides: Sequence[str], rehash: bool = False
) -> Answers:
    """Asks all nodes at once. ``nodes``: processes to start on each. Native code is built on each meanwhile."""
    directory = load_recipe(recipe, overrides).directory
    token = directory / f".preflight-{secrets.token_hex(8)}" if len(nodes) > 1 else None
    if token is not None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            token.touch()
        except OSError as error:
            raise UserError(f"{directory}: cannot be written ({error.strerror}); set another directory") from None
    words = python("mnmt_ds.cli.main", "preflight", str(recipe), *overrides, "--node", token.name if token else "")
    words += ["--rehash"] if rehash else []
    try:
        with ThreadPoolExecutor(len(nodes)) as pool:
            asked = {name: pool.submit(ask, reach, name, words) for name in nodes}
            answers = {name: future.result() for name, future in asked.items()}
    finally:
        if token is not None:
            token.unlink(missing_ok=True)
    found = {name: answer for name, answer in answers.items() if isinstance(answer, Facts)}
    faults = [f"node {name}: {answer}" for name, answer in answers.items() if isinstance(answer, str)]
    return Answers(found, faults + compare(nodes, found, directory))


def ask(reach: Reach, name: str, words: Sequence[str]) -> Facts | str:
    """A node's facts, or why there are none."""
    try:
        done = run(reach, name, words, PATIENCE)
    except subprocess.TimeoutExpired:
        return f"no answer within {PATIENCE:.0f} s; look what hangs there"
    except OSError as error:
        return f"{error.filename} cannot be run ({error.strerror}); install it"
    answer = node.read(done.stdout)
    if answer is not None:
        return answer
    last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
    if reach.refused(done.returncode):
        return f"cannot be reached ({last}); 'ssh {name}' must work without a password"
    return f"the check failed there with exit code {done.returncode} ({last})"


def compare(nodes: Mapping[str, int], found: Mapping[str, Facts], directory: Path) -> list[str]:
    """Faults of each node, and differences from the first that answered."""
    faults = [f"node {name}: {fault}" for name, facts in found.items() for fault in facts.faults]
    if not found:
        return faults
    first, reference = next(iter(found.items()))
    wanted = os.environ.get("DS_ACCELERATOR", passed_variables().get("DS_ACCELERATOR", "")) == "cuda"
    on_gpus = wanted or any(facts.gpus for facts in found.values())
    for name, facts in found.items():
        for what, value in facts.same.items():
            if value != (there := reference.same.get(what, value)):
                faults.append(f"node {name}: {what} {value}, but {there} on {first}; make them the same")
        if not facts.shared:
            faults.append(
                f"node {name}: {directory} is not the directory that the launching node sees;"
                " put the run on a file system that all nodes share"
            )
        if on_gpus and facts.gpus < nodes[name]:
            faults.append(
                f"node {name}: {facts.gpus} GPU(s) visible, {nodes[name]} wanted; correct its slots or its driver"
            )
    return faults
