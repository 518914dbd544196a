"""``python launchers/launch.py [DEEPSPEED OPTIONS] RECIPE [--resume] [a.b=c ...]``: checks all nodes, trains under the
deepspeed launcher, and ends the job everywhere when a node fails. ``--no_checks`` skips the checks."""

import sys
from pathlib import Path

from mnmt_ds.errors import UserError
from mnmt_ds.launching.job import launch, say


def main() -> int:
    words = [word for word in sys.argv[1:] if word != "--no_checks"]
    place = next((n for n, word in enumerate(words) if word.endswith((".yaml", ".yml"))), None)
    try:
        if place is None:
            raise UserError("no recipe; say python launchers/launch.py [DEEPSPEED OPTIONS] RECIPE.yaml")
        script = Path(__file__).resolve().with_name("train.py")
        return launch(words[:place], script, words[place], words[place + 1 :], "--no_checks" not in sys.argv)
    except UserError as error:
        say(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
