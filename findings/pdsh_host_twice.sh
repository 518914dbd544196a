#!/usr/bin/env bash
# Guessed: pdsh takes the hosts as a set: a host that is named twice (node1,node1 or node[1-2],node1) gets the command once.
# What is: it gets it as often as it is named, and with the default fan-out at the same time; -x takes out one mention
#   alone, so that an excluded node still gets the command.
# Seen with: pdsh 2.34-0.2 (Debian 12); 2026-11-28
# Why it matters: a host list put together from two files, or a hostfile with a line a GPU (`sort -u` forgotten), starts
#   two launchers on one node: both take its GPUs and its port, or write into one run's directory.
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
node1,node1: 2 started on node1
node[1-2],node1: 2 started on node1
node[1-2],node1 without node1: 1 started on node1
END

started() { "$work/usr/bin/pdsh" -R exec "$@" echo started | grep -c '^node1: started' || true; }
{
  echo "node1,node1: $(started -w node1,node1) started on node1"
  echo "node[1-2],node1: $(started -w 'node[1-2],node1') started on node1"
  echo "node[1-2],node1 without node1: $(started -w 'node[1-2],node1' -x node1) started on node1"
} > seen

dpkg-deb -f pdsh_*.deb Package Version
cat seen
diff expected seen || { echo "CHANGED: pdsh treats repeated hosts otherwise"; exit 1; }
echo "as stated"
