#!/usr/bin/env bash
# Guessed: pdsh -S ends with the largest exit status of all hosts; a process that was killed counts as failed.
# What is: with the rcmd module `exec` (which runs any launcher) a process that ends by a signal counts as 0. pdsh -S then
#   ends with 0 where all others did well, and with the others' status where these failed.
# Seen with: pdsh 2.34-0.2 (Debian 12); 2026-11-28
# Why it matters: a trainer that the kernel kills for its memory is the commonest death of a node; a script that starts
#   nodes by pdsh and looks at the exit status goes on with the evaluation.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq pdsh=2.34-0.2 2> /dev/null
dpkg -x pdsh_*.deb .
export PDSH_MODULE_DIR
PDSH_MODULE_DIR=$(dirname "$(find "$work" -name execcmd.so)")

cat > expected <<'END'
one fails with 3, one does well: exit status 3
one is killed, one does well: exit status 0
one is killed, one fails with 1: exit status 1
END

cat > node.sh <<'END'
case $1 in killed) kill -9 $$ ;; fails3) exit 3 ;; fails1) exit 1 ;; esac
END
status() {
  local status=0
  "$work/usr/bin/pdsh" -S -R exec -w "$1" bash node.sh %h 2> /dev/null || status=$?
  echo "$2: exit status $status"
}
{
  status fails3,well "one fails with 3, one does well"
  status killed,well "one is killed, one does well"
  status killed,fails1 "one is killed, one fails with 1"
} > seen

dpkg-deb -f pdsh_*.deb Package Version
cat seen
diff expected seen || { echo "CHANGED: pdsh -S counts killed processes otherwise"; exit 1; }
echo "as stated"
