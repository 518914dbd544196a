"""The README stays true: its commands exist, and CI runs exactly its test command."""

import re
import subprocess
from pathlib import Path

from mnmt_ds.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_commands_exist() -> None:
    named = set(re.findall(r"^mnmt-ds\s+([a-z]+)", README, re.MULTILINE))
    assert named <= set(COMMANDS) and named >= set(COMMANDS) - {"bench"}


def test_ci_runs_the_readmes_test_command() -> None:
    command = "bash launchers/test.sh"
    assert command in README
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith(("#", "set ", "cd "))] == [command]


def test_shell_scripts_parse() -> None:
    for script in [*(ROOT / "launchers").glob("*.sh"), ROOT / ".ci" / "run"]:
        subprocess.run(["bash", "-n", str(script)], check=True)
