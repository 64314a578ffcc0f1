"""Images for the loop: decoded once and kept in memory, or decoded ahead of need by threads.

Threads, not processes: decoding (Pillow) and resizing (PyTorch) both release the interpreter lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from adfast.data.folder import load_image, to_network
from adfast.errors import DataError
from adfast.training.reporting import Reporter

WORKERS = min(8, os.cpu_count() or 1)


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


class Feed:
    """Images of a run as the network sees them, float32 [3, H, W] in [0, 1].

    Every image is decoded once here, so a broken one is found before hours are spent.

    Args:
        paths: the image files.
        resize: see `to_network`.
        crop: see `to_network`.
        keep: keep the decoded images in memory.
        report: is told of the progress.

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
        report: Reporter,
    ) -> None:
        self.paths, self.resize, self.crop = list(paths), resize, crop
        self.images: Tensor | None = None
        if keep:
            self.images = torch.empty(len(self.paths), 3, *crop, memory_format=torch.channels_last)
        problems = []
        report.phase("reading images", len(self.paths))
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                for i, result in enumerate(pool.map(self._try_decode, range(len(self.paths)))):
                    if isinstance(result, DataError):
                        problems.append(str(result))
                    elif keep:
                        self.images[i] = result
                    report.advance(1)
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)  # else Ctrl-C would wait for all of them
                raise
        report.close()
        if problems:
            rest = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
            raise DataError(
                f"{len(problems)} of {len(self.paths)} training images cannot be used: "
                f"{'; '.join(problems[:10])}{rest}. Repair or remove them"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def _decode(self, index: int) -> Tensor:
        return to_network(load_image(self.paths[index]), self.resize, self.crop)

    def _try_decode(self, index: int) -> Tensor | DataError:
        try:
            image = self._decode(index)
            return image if self.images is not None else image[:0]
        except DataError as error:
            return error

    def batches(self, order: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images [B, 3, H, W], channels last, of each index tensor in turn."""
        if self.images is not None:
            for indices in order:
                yield self.images[indices].contiguous(memory_format=torch.channels_last)
            return
        with ThreadPoolExecutor(WORKERS) as pool:

            def begin(indices: Tensor) -> list:
                return [pool.submit(self._decode, i) for i in indices.tolist()]

            ahead = begin(order[0]) if len(order) else []
            for k in range(len(order)):
                # The next batch is decoded while the caller computes on this one.
                current, ahead = ahead, begin(order[k + 1]) if k + 1 < len(order) else []
                batch = torch.stack([future.result() for future in current])
                yield batch.contiguous(memory_format=torch.channels_last)
