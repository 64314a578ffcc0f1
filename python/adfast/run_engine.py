"""A training run that answers as an engine does, so that it can be evaluated before it is built.

PyTorch computes the network, in float32 on the CPU; the frame is resized and cropped as the engine
does it (`adfast.parity.from_run`), and the map is brought back to the frame's size.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from adfast import parity
from adfast._version import __version__
from adfast.errors import ArgumentError, FrameError
from adfast.images import DEEP_FORMATS, to_255
from adfast.progress import Track, silent
from adfast.result import Box, Result


class RunEngine:
    """Has the `predict`, `warmup` and `info` of `adfast.Engine`; there is no threshold."""

    def __init__(
        self, run: str | os.PathLike[str], threads: int = 0, track: Track = silent
    ) -> None:
        """Load the best checkpoint of a run.

        Args:
            run: the folder `adfast train --out` wrote.
            threads: threads of PyTorch, in this whole process; 0 leaves them as they are.
            track: shows the progress of a mean map that is not there yet, see
                `adfast.models.load_run`.

        Raises:
            ModelError: the folder is no run, or its checkpoint does not fit.
        """
        import torch

        from adfast.models import load_run

        if threads < 0:
            raise ArgumentError(f"[run] threads is {threads}, expected 0 or more")
        if threads:
            torch.set_num_threads(threads)
        model, self._run = load_run(run, track=track)
        self._path = os.fspath(run)
        self._config = model.config
        self._answer = parity.from_run(model.eval())
        self._torch = torch

    def predict(self, image: np.ndarray, *, pixel_format: str = "") -> Result:
        """Inspect one frame.

        Args:
            image: uint8 (H, W) or (H, W, 3) RGB; uint16 (H, W) of a deep format.
            pixel_format: one of `adfast.images.DEEP_FORMATS`; empty: 8 bits.

        Raises:
            FrameError: another type or shape.
            ArgumentError: another pixel format.
        """
        if pixel_format and pixel_format not in DEEP_FORMATS:
            raise ArgumentError(
                f"[predict] pixel_format is {pixel_format!r}, expected one of "
                f"{', '.join(DEEP_FORMATS)}, or none for 8 bits"
            )
        frame = np.asarray(image)
        grey = frame.ndim == 2
        if pixel_format and not (frame.dtype == np.uint16 and grey):
            raise FrameError(
                f"[predict] image is {frame.dtype} {frame.shape}, expected uint16 (H, W) for "
                f"{pixel_format}"
            )
        if not pixel_format and not (
            frame.dtype == np.uint8 and (grey or (frame.ndim == 3 and frame.shape[2] == 3))
        ):
            raise FrameError(
                f"[predict] image is {frame.dtype} {frame.shape}, expected uint8 (H, W) or "
                "(H, W, 3)"
            )
        start = time.perf_counter()
        score, network_map = self._answer(to_255(frame, pixel_format))
        computed = time.perf_counter()
        resize, crop = self._config.resize, self._config.crop
        part = inspected_part(frame.shape[:2], resize, crop)
        inside = self._torch.nn.functional.interpolate(
            self._torch.from_numpy(network_map)[None, None],
            size=(part.height, part.width),
            mode="bilinear",
            align_corners=False,
        )
        whole = np.zeros(frame.shape[:2], np.float32)
        whole[part.slices] = inside[0, 0].numpy()
        end = time.perf_counter()
        return Result(
            score=score,
            map=whole,
            network_map=network_map,
            inspected=part,
            threshold=None,
            timings={
                "frame": 0.0,  # the network's time holds it
                "network": 1e3 * (computed - start),
                "map": 1e3 * (end - computed),
                "total": 1e3 * (end - start),
            },
        )

    def warmup(self, n: int = 3) -> None:
        """Run `n` grey frames of the network's own size."""
        for _ in range(n):
            self.predict(np.full(tuple(self._config.resize), 128, np.uint8))

    @property
    def info(self) -> dict[str, Any]:
        """What runs where: run, model, precision, threads, versions."""
        return {
            "runtime": f"PyTorch {self._torch.__version__}",
            "run": self._path,
            "model": self._run["model"],
            "name": Path(self._path).resolve().name,
            "precision": "f32",
            "threads": self._torch.get_num_threads(),
            "resize": list(self._config.resize),
            "crop": list(self._config.crop),
            "threshold": None,
            "adfast": __version__,
        }


def inspected_part(frame: tuple[int, int], resize: tuple[int, int], crop: tuple[int, int]) -> Box:
    """Return the rectangle of a frame that a centre crop sees.

    As csrc/runtime/resample.cpp computes it: edges rounded half up, at least one pixel.
    """
    ends = []
    for side, resized, kept in zip(frame, resize, crop, strict=True):
        begin = (resized - kept) // 2
        low, high = ((2 * at * side + resized) // (2 * resized) for at in (begin, begin + kept))
        low = min(low, side - 1)
        ends.append((low, min(max(high, low + 1), side)))
    (top, bottom), (left, right) = ends
    return Box(left, top, right - left, bottom - top)
