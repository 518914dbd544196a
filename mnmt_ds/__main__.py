"""``python -m mnmt_ds COMMAND``: the same as ``mnmt-ds COMMAND``."""

import sys

from mnmt_ds.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
