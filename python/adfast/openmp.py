"""Loads libraries with threads that wait briefly before they sleep.

Between two steps OpenMP's threads spin, by default for milliseconds. On a machine that does other
things too, the thread they wait for may not be running at all: they burn the processor it needs.
libgomp takes the limit from the environment when it is loaded, and in no other way. PyTorch brings
a libgomp of its own.
"""

import contextlib
import os
from collections.abc import Iterator

LIMIT = "GOMP_SPINCOUNT"


@contextlib.contextmanager
def brief_waits() -> Iterator[None]:
    """Let a libgomp that is loaded inside wait briefly, unless the user has said how long."""
    unset = LIMIT not in os.environ and "OMP_WAIT_POLICY" not in os.environ
    if unset:
        os.environ[LIMIT] = "2000"
    try:
        yield
    finally:
        if unset:  # it is no business of other libraries, nor of child processes
            del os.environ[LIMIT]
