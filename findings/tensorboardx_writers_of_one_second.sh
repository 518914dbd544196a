#!/usr/bin/env bash
# Guessed: Two SummaryWriters on one directory write a file each, as torch's do.
# What is: The file's name has the second and the host alone, no process id and no counter: the second writer opens
#   the first one's file anew, and what the first one wrote is lost.
# Seen with: tensorboardX 2.6.5, tensorboard 2.21.0; Python 3.11; 2026-11-28
# Why it matters: Two ranks, two runs of a sweep or a restarted writer in the same second and directory: one curve is
#   missing, without a warning.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check tensorboardX==2.6.5 tensorboard==2.21.0
cd "$work"

cat > expected <<'END'
files: 1 scalars written: 20, read: 10
END

"$work/env/bin/python" - > seen <<'END'
import os, tempfile, time
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter

with tempfile.TemporaryDirectory() as folder:
    time.sleep(1 - time.time() % 1 + 0.05)  # both writers in one second
    first, second = SummaryWriter(folder), SummaryWriter(folder)
    for step in range(10):
        first.add_scalar("loss/first", step, step)
        second.add_scalar("loss/second", step, step)
    first.close()
    second.close()
    read = EventAccumulator(folder).Reload()
    found = {tag: len(read.Scalars(tag)) for tag in read.Tags()["scalars"]}
    print("files:", len(os.listdir(folder)), "scalars written: 20, read:", sum(found.values()))
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(tensorboardX|tensorboard)==' || true
cat seen
diff expected seen || { echo "CHANGED: writers of one second are kept apart"; exit 1; }
echo "as stated"
