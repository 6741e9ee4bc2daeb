"""Bytes of somebody else's choosing, at the three places where they come in: NBD, peer links, files on disk.

Each target is a function of bytes: they are accepted, or end in the one error that their protocol has, and anything
else is a bug. `python -m tests.fuzz nbd --seconds 600` lets a coverage-guided fuzzer look for it (atheris), starting
from what is kept in `corpus/`; the tests replay that corpus.
"""
