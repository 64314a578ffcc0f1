"""Loads the compiled module, see `adfast.openmp`."""

from adfast.openmp import brief_waits

with brief_waits():
    from adfast import _core  # noqa: F401
