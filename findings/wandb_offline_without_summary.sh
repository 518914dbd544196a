#!/usr/bin/env bash
# Guessed: An offline run's folder has files/wandb-summary.json with the last value of each metric, and config.yaml.
# What is: files/ has requirements.txt alone; summary, configuration and history are in the binary .wandb file only,
#   and the module that read it (wandb.sdk.internal.datastore) is gone.
# Seen with: wandb 0.31.0; Python 3.11; 2026-11-28
# Why it matters: On clusters without network scripts collect final metrics from these files; with this release they
#   find none, and the runs look empty.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check wandb==0.31.0
cd "$work"

cat > expected <<'END'
files: ['requirements.txt']
reader of .wandb files: None
END

"$work/env/bin/python" - > seen <<'END'
import importlib.util, os

os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
import wandb

run = wandb.init(project="demo", config={"lr": 0.1}, dir=".")
run.log({"bleu": 12.5})
folder = run.dir
run.finish()
print("files:", sorted(set(os.listdir(folder)) & {"wandb-summary.json", "config.yaml", "requirements.txt"}))
print("reader of .wandb files:", importlib.util.find_spec("wandb.sdk.internal.datastore"))
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(wandb)==' || true
cat seen
diff expected seen || { echo "CHANGED: an offline run's folder has other files"; exit 1; }
echo "as stated"
