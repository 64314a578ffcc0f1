"""Showing how far a long step is. Libraries take a `Track` and never print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

#: track(items, what) yields the items and shows how many of them are done.
Track = Callable[[Sequence[Any], str], Iterable[Any]]


def say(quiet: bool) -> Callable[[str], None]:
    """Return what takes a command's lines for people: to stderr; if `quiet`, warnings only."""

    def log(text: str) -> None:
        if not quiet or text.startswith("warning"):
            print(text, file=sys.stderr)

    return log


def silent(items: Sequence[Any], what: str) -> Iterable[Any]:
    """Show nothing."""
    return items


def bar(items: Sequence[Any], what: str) -> Iterable[Any]:
    """Show a bar on a terminal that has rich; a log needs none."""
    if sys.stderr.isatty():
        try:
            from rich.console import Console
            from rich.progress import track
        except ImportError:
            return items
        return track(items, what, console=Console(stderr=True), transient=True)
    return items
