"""Telling a person how the training goes. The loop calls these; it never prints itself."""

from __future__ import annotations


class Reporter:
    """Says nothing. Base class of the others."""

    def message(self, text: str) -> None:
        """Say something once."""

    def phase(self, title: str, total: int, done: int = 0) -> None:
        """Begin a phase of `total` images, `done` of them before."""

    def title(self, text: str) -> None:
        """Rename the phase."""

    def advance(self, images: int, loss: float | None = None) -> None:
        """Count images of the phase; `loss` is the mean of the running epoch."""

    def close(self) -> None:
        """End the last phase."""


class RichReporter(Reporter):
    """A progress bar with loss, images per second and time left, and a line per message."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True, soft_wrap=True)
        # The speed of the last minutes, not of the last second: validation counts too.
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=120,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = None

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def phase(self, title: str, total: int, done: int = 0) -> None:
        """Begin a bar."""
        self.close()
        self._task = self._progress.add_task(title, total=total, completed=done, loss="", speed="")
        self._progress.start()

    def title(self, text: str) -> None:
        """Rename the bar."""
        self._progress.update(self._task, description=text)

    def advance(self, images: int, loss: float | None = None) -> None:
        """Move the bar."""
        task = self._progress.tasks[-1]
        fields = {"speed": f"{task.speed:.1f} images/s"} if task.speed else {}
        if loss is not None:
            fields["loss"] = f"loss {loss:.4g}"
        self._progress.update(self._task, advance=images, **fields)

    def close(self) -> None:
        """Remove the bar."""
        if self._task is not None:
            self._progress.stop()
            self._progress.remove_task(self._task)
            self._task = None
