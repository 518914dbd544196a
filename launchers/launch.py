"""``python launchers/launch.py [DEEPSPEED OPTIONS] RECIPE [--resume] [a.b=c ...]``: checks all nodes, trains under the
deepspeed launcher, and ends the job everywhere when a node fails. ``--no_checks`` skips the checks."""

import sys
from pathlib import Path

from mnmt_ds import log
from mnmt_ds.errors import UserError, file_fault
from mnmt_ds.launching.job import launch
from mnmt_ds.terminal import escaped_output


def main() -> int:
    """Starts the job that the command line asks for.

    Returns:
        The exit code; 2 after a UserError or a fault of a file or disk: a line a fault on standard error.
    """
    log.set_up()
    words = [word for word in sys.argv[1:] if word != "--no_checks"]
    position = next((n for n, word in enumerate(words) if word.endswith((".yaml", ".yml"))), None)
    try:
        if position is None:
            raise UserError("no recipe; say python launchers/launch.py [DEEPSPEED OPTIONS] RECIPE.yaml")
        script = Path(__file__).resolve().with_name("train.py")
        options, recipe, rest = words[:position], words[position], words[position + 1 :]
        return launch(options, script, recipe, rest, "--no_checks" not in sys.argv)
    except (UserError, OSError) as error:
        fault = error if isinstance(error, UserError) else file_fault(error)
        if fault is None:
            raise
        for line in fault.faults:
            print(f"launch: {line}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    with escaped_output():
        code = main()
    sys.exit(code)
