"""TensorBoard's log of a training: RUN/tensorboard."""

from __future__ import annotations

from pathlib import Path

from adfast.errors import AdfastError


def writer_class() -> type:
    """Return PyTorch's writer of event files; an AdfastError says if tensorboard is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise AdfastError(
            f"--tensorboard needs the package tensorboard ({error}); pip install tensorboard"
        ) from error
    return SummaryWriter


class Board:
    """Writes an event per epoch and quantity.

    Args:
        folder: of the event files.
        epochs: done before; what the files say of later ones is superseded.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        self._writer = writer_class()(str(folder), purge_step=epochs + 1)

    def epoch(self, record: dict, images_per_second: float) -> None:
        """Write the numbers of an epoch, whose record is that of history.jsonl."""
        values = {
            "loss/training": record["loss"],
            "loss/validation": record["validation_loss"],
            "learning rate": record["lr"],
            "images per second": images_per_second,
        }
        for name, value in values.items():
            self._writer.add_scalar(name, value, record["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
