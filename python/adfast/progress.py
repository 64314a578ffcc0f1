"""Showing how far a long step is. Libraries take a `Track` and never print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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


#: phase(name, step, steps) tells how far a phase of a long step is; phases may nest.
Phase = Callable[[str, int, int], None]


@contextmanager
def phases(quiet: bool) -> Iterator[Phase]:
    """Yield what shows phases as bars, on a terminal that has rich; else what shows nothing."""
    if quiet or not sys.stderr.isatty():
        yield lambda name, step, steps: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield lambda name, step, steps: None
        return
    with Progress(console=Console(stderr=True), transient=True) as shown:
        tasks: dict[str, Any] = {}

        def phase(name: str, step: int, steps: int) -> None:
            if name not in tasks:
                tasks[name] = shown.add_task(name, total=steps)
            shown.update(tasks[name], completed=step, total=steps)
            if step >= steps:
                shown.remove_task(tasks.pop(name))

        yield phase
