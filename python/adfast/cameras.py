"""Sources of frames for `Stream.run`: a folder, OpenCV's cameras and videos, GenICam cameras.

Each is an iterator of `adfast.Frame`. What a source needs is imported when it is used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from adfast.engine import PIXEL_FORMATS
from adfast.errors import AdfastError, ArgumentError, FrameError
from adfast.images import EXTENSIONS, read_image
from adfast.stream import Frame

#: Seconds between two looks at a watched folder.
LOOK_EVERY = 0.1
#: Seconds that a file's size must not change before it is read.
SETTLED = 0.3


def folder(
    path: str | os.PathLike[str], *, watch: bool = True, pixel_format: str = ""
) -> Iterator[Frame]:
    """Yield the images of a folder in the order of their names, then those that arrive.

    A watched file is read when its size has been the same for a moment, as it may be in writing. A
    file that cannot be read then is skipped.

    Args:
        path: the folder; hidden files are not images.
        watch: go on for ever; False: end after the files that are there.
        pixel_format: of files of 16 bits a sample, see `adfast.images.read_image`.

    Yields:
        Frames whose id counts from 0, and whose timestamp is the file's time of change.

    Raises:
        AdfastError: the folder does not exist, or is gone.
    """
    path = Path(path)
    seen: set[str] = set()
    sizes: dict[str, tuple[int, float]] = {}
    number = 0
    while True:
        try:
            names = sorted(
                entry.name
                for entry in os.scandir(path)
                if entry.name.lower().endswith(EXTENSIONS)
                and not entry.name.startswith(".")
                and entry.name not in seen
                and entry.is_file()
            )
        except OSError as error:
            raise AdfastError(f"cannot watch {path}: {error.strerror or error}") from error
        for name in names:
            if watch and not _settled(path / name, sizes):
                continue
            seen.add(name)
            sizes.pop(name, None)
            try:
                image = read_image(path / name, pixel_format)
                changed = (path / name).stat().st_mtime_ns
            except (FrameError, OSError):
                continue
            yield Frame(image, number, changed, pixel_format)
            number += 1
        if not watch:
            return
        time.sleep(LOOK_EVERY)


def _settled(path: Path, sizes: dict[str, tuple[int, float]]) -> bool:
    """Return whether the file's size is that of a while ago."""
    try:
        size = path.stat().st_size
    except OSError:
        return False
    now = time.monotonic()
    known, since = sizes.get(path.name, (-1, now))
    if size != known:
        sizes[path.name] = (size, now)
        return False
    return size > 0 and now - since >= SETTLED


def opencv(source: int | str) -> Iterator[Frame]:
    """Yield the frames of an OpenCV `VideoCapture`: a camera's number, a video file, a URL.

    Args:
        source: as `cv2.VideoCapture` takes it.

    Yields:
        BGR8 frames, whose id counts from 0 and whose timestamp is the time of reading. OpenCV fills
        a new array for each.

    Raises:
        AdfastError: OpenCV is not installed, or cannot open the source.
    """
    try:
        import cv2
    except ImportError as error:
        raise AdfastError("this needs OpenCV: pip install opencv-python-headless") from error
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise AdfastError(f"OpenCV cannot open {source!r}: no such camera, file or address")
    try:
        number = 0
        while True:
            good, image = capture.read()
            if not good:
                return
            yield Frame(image, number, time.time_ns(), "BGR8" if image.ndim == 3 else "")
            number += 1
    finally:
        capture.release()


def genicam(acquirer: Any, *, timeout: float = 10.0) -> Iterator[Frame]:
    """Yield the frames of a GenICam camera through `harvesters`.

    The camera's own buffer is handed on without a copy and given back when the next frame is asked
    for, by when `Stream.submit` has copied it.

    Args:
        acquirer: an `ImageAcquirer` of harvesters, as `Harvester().create()` returns it. It is
            started here, and stopped at the end.
        timeout: seconds to wait for a frame.

    Yields:
        Frames whose id counts from 0, with the camera's time stamp, or that of their arrival where
        it has none. The fourth channel of RGBa8 and BGRa8 is left out.

    Raises:
        ArgumentError: the camera's pixel format is not one that the engine takes.
    """
    acquirer.start()
    number = 0
    try:
        while True:
            with acquirer.fetch(timeout=timeout) as buffer:
                part = buffer.payload.components[0]
                image, pixel_format = _as_image(part)
                yield Frame(image, number, _time_of(buffer), pixel_format)
                number += 1
    finally:
        acquirer.stop()


def _as_image(part: Any) -> tuple[np.ndarray, str]:
    """Return a component of a buffer as an array, and its pixel format."""
    name = str(part.data_format)
    stored = {"RGBa8": 4, "BGRa8": 4, "RGB8": 3, "BGR8": 3}.get(name, 1)
    pixel_format = {"RGBa8": "RGB8", "BGRa8": "BGR8"}.get(name, name)
    if pixel_format not in PIXEL_FORMATS:
        raise ArgumentError(
            f"the camera sends {name}, expected RGBa8, BGRa8 or one of {', '.join(PIXEL_FORMATS)}; "
            "set its PixelFormat"
        )
    # Rows may be padded.
    rows = part.data.reshape(part.height, -1)[:, : part.width * stored]
    if stored == 1:
        return rows, pixel_format
    return rows.reshape(part.height, part.width, stored)[..., :3], pixel_format


def _time_of(buffer: Any) -> int:
    try:
        return int(buffer.timestamp_ns)
    except Exception:  # of the vendor's library: this camera keeps no time
        return time.time_ns()
