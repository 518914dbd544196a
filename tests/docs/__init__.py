"""Tests of README and docs: links, paths, commands and settings exist, and what is shown as a session runs."""
