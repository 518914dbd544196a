# Sourced by the other launchers: makes .venv with everything in it (once), and activates it.
# MNMT_DS_ENV=current uses the Python environment that is active instead.
if [ "${MNMT_DS_ENV:-venv}" != current ]; then
  if [ ! -f .venv/.complete ]; then
    echo "setting up .venv (once; a few minutes)"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; this is $(python3 --version)"; exit 2; }
    command -v g++ > /dev/null || { echo "g++ is needed; install a C++ compiler (on Debian: apt-get install g++)"; exit 2; }
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/pip install --upgrade pip setuptools wheel
    # DeepSpeed is built from source against an installed torch; on a machine without a GPU, this version's CPU build is wanted.
    if command -v nvidia-smi > /dev/null && nvidia-smi > /dev/null 2>&1; then torch='torch>=2.11,<2.14'; else torch='torch==2.13.0'; fi
    .venv/bin/pip install "$torch" numpy ninja
    .venv/bin/pip install --no-build-isolation 'deepspeed>=0.19.8,<0.20'
    .venv/bin/pip install --no-build-isolation -e '.[test]'
    touch .venv/.complete
  fi
  source .venv/bin/activate
fi
export DS_ACCELERATOR=${DS_ACCELERATOR:-$(python -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')}
