"""The training loop. What it works on is prepared and kept by `adfast.training.run.Run`."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from adfast.training.reporting import Reporter
from adfast.training.resume import begun, ending
from adfast.training.run import Run
from adfast.training.settings import TrainSettings


def train(
    settings: TrainSettings,
    out: str | Path,
    *,
    resume: bool = False,
    report: Reporter | None = None,
) -> dict:
    """Train a model on good images and leave a run folder (see `adfast.training.checkpoint`).

    Processes started by torchrun train together; see `adfast.training.ranks`.

    The order of the images follows from seed and epoch, and the state is saved after every epoch,
    so a resumed training does what the uninterrupted one would have done. One that has ended, with
    its last epoch or for want of improvement, is left as it is.

    Args:
        settings: see `TrainSettings`.
        out: the run folder, made if need be.
        resume: go on from last.safetensors, if there is one, with the same settings.
        report: is told of the progress.

    Returns:
        The run's config.json.

    Raises:
        DataError: images are missing or broken.
        ModelError: weights do not fit, or the loss is no longer finite.
        AdfastError: the run folder cannot be written or holds another training.
        KeyboardInterrupt: Ctrl-C came; the state is saved.
    """
    out, report = Path(out), report or Reporter()
    if resume and (out / "last.safetensors").is_file():
        info = begun(settings, out)
        if end := ending(settings, info, out):
            report.message(end)
            return info
    run = Run(settings, out, resume, report)
    model, optimizer = run.model, run.optimizer
    with interruptible() as stop:
        for epoch in range(run.position["epoch"], settings.epochs):
            if run.stalled():
                break
            model.train()
            model.begin_epoch(epoch, settings.epochs)
            for step in run.steps_of(epoch):
                run.begin_step(epoch)
                with run.autocast():
                    loss = step.share * model.loss(step.images, step.features)
                    for images, labels, share in step.labelled:
                        loss = loss + share * model.labelled_losses(images, labels).mean()
                optimizer.zero_grad()
                loss.backward()
                loss, stopping = run.ranks.add_gradients(model, loss, stop.is_set())
                optimizer.step()
                run.end_step(step.size, loss)
                if stopping:
                    run.save_last()
                    raise KeyboardInterrupt
            run.end_epoch(epoch)
            if run.ranks.any(stop.is_set()):
                raise KeyboardInterrupt
    return run.finish()


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, for the loop to stop between two steps.

    In the middle of a step the parameters are half updated. A second Ctrl-C interrupts at once.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number, frame) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
