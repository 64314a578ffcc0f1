"""Images for the loop: decoded once and kept in memory, or decoded ahead of need by processes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from adfast.data.folder import load_image, to_network
from adfast.errors import AdfastError, DataError
from adfast.training.reporting import Reporter

WORKERS = min(8, os.cpu_count() or 1)
# A frame smaller than the models' patches, stretched to a network's input, shows nothing (ours).
SMALLEST = 16
AHEAD = 2  # batches that each worker decodes ahead


def available_memory() -> int:
    """Return the bytes this process may still allocate; a modest guess where nobody says."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 4 << 30
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no limit, or no such file
        pass
    return max(0, free)


class _Images(Dataset):
    """Decodes images by index; what goes wrong is returned, to be said by the one who asked."""

    def __init__(
        self,
        paths: list[Path],
        resize: tuple[int, int],
        crop: tuple[int, int],
        pixel_format: str,
    ) -> None:
        self.paths, self.resize, self.crop = paths, resize, crop
        self.pixel_format = pixel_format

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | DataError:
        try:
            frame = load_image(self.paths[index], self.pixel_format)
        except DataError as error:
            return error
        height, width = frame.shape[:2]
        if min(height, width) < SMALLEST:
            return DataError(
                f"{self.paths[index]}: {width} x {height} pixels are too few; expected at least "
                f"{SMALLEST} x {SMALLEST}"
            )
        return to_network(frame, self.resize, self.crop)


def _stack(images: list[Tensor | DataError]) -> Tensor | DataError:
    problem = next((image for image in images if isinstance(image, DataError)), None)
    return problem or torch.stack(images)


def _begin_worker(_: int) -> None:
    # Ctrl-C is for the training, which finishes its step, and perhaps a validation, with us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def refuse_unusable(problems: Sequence[str], total: int, what: str) -> None:
    """Raise a DataError that names the first ten images that cannot be used; none: return."""
    if problems:
        rest = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise DataError(
            f"{len(problems)} of {total} {what} cannot be used: "
            f"{'; '.join(problems[:10])}{rest}. Repair or remove them"
        )


class Feed:
    """Images of a run as the network sees them, float32 [3, H, W] in [0, 1].

    Every image is decoded once here, so a broken one is found before hours are spent.

    Args:
        paths: the image files.
        resize: see `to_network`.
        crop: see `to_network`.
        keep: keep the decoded images in memory.
        workers: processes that decode what is not kept; 0: this one does.
        report: is told of the progress.
        pixel_format: of images of 16 bits a sample, see `load_image`.

    Raises:
        DataError: names the images that cannot be used.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        resize: tuple[int, int],
        crop: tuple[int, int],
        *,
        keep: bool,
        workers: int = WORKERS,
        report: Reporter,
        pixel_format: str = "",
    ) -> None:
        self._source = _Images(list(paths), resize, crop, pixel_format)
        self._workers, self._report = workers, report
        self.images: Tensor | None = None
        if keep:
            self.images = torch.empty(len(paths), 3, *crop, memory_format=torch.channels_last)
        problems = []
        report.phase("reading images", len(paths))
        # Threads for this once: decoding (Pillow) and resizing (PyTorch) release the interpreter
        # lock, and nothing is copied between processes.
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                for result in pool.map(self._look_at, range(len(paths))):
                    if isinstance(result, DataError):
                        problems.append(str(result))
                    report.advance(1)
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)  # else Ctrl-C would wait for all of them
                raise
        report.close()
        refuse_unusable(problems, len(paths), "training images")

    def __len__(self) -> int:
        return len(self._source)

    def _look_at(self, index: int) -> DataError | None:
        image = self._source[index]
        if isinstance(image, DataError):
            return image
        if self.images is not None:
            self.images[index] = image
        return None

    def batches(self, order: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images [B, 3, H, W], channels last, of each index tensor in turn.

        Raises:
            DataError: names an image that has become unusable.
            AdfastError: a worker was killed.
        """
        if self.images is not None:
            for indices in order:
                yield self.images[indices].contiguous(memory_format=torch.channels_last)
            return
        batches = [indices.tolist() for indices in order]
        loader = DataLoader(
            self._source,
            batch_sampler=batches,
            collate_fn=_stack,
            num_workers=self._processes(batches),
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # it draws a number: not from the training's
        )
        try:
            for batch in loader:
                if isinstance(batch, DataError):
                    raise batch
                yield batch.contiguous(memory_format=torch.channels_last)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise AdfastError(
                "a process that decodes images was killed, perhaps for want of memory; go on with "
                f"--resume and fewer --workers (0: none). PyTorch says: {error}"
            ) from error

    def _processes(self, batches: list[list[int]]) -> int:
        """Return how many workers have room for their batches in shared memory."""
        if not batches or not self._workers:
            return 0
        workers = min(self._workers, len(batches))
        size = max(map(len, batches)) * 3 * self._source.crop[0] * self._source.crop[1] * 4
        try:
            free = shutil.disk_usage("/dev/shm").free
        except OSError:  # not a system that shares memory there
            return workers
        # AHEAD for each worker, the one being used and one between.
        return max(0, min(workers, (free // size - 2) // AHEAD))
