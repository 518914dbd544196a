"""Jobs on one node and on many: checks before the start, the start itself, and a watchdog until the end."""
