"""Jobs on one node and on many: checks before the start, the start itself, and the watch until the end"""
