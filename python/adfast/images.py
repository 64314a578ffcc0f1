"""Image files to uint8 arrays and back, with numpy and the standard library alone.

PNG, PGM/PPM and NPY are read here, so that a bare install can predict; Pillow, when it is there,
decodes PNG faster (to the same pixels) and adds JPEG, BMP, TIFF and WebP. Pixels are taken as they
are stored: no colour management, no EXIF rotation, alpha dropped.

A file of 16 bits a sample holds a camera's 10, 12 or 16; which, the camera knows, and guessing it
from the values would make the score depend on the scene. So it is read where its pixel format is
named, as uint16 and unscaled, and refused otherwise. `to_255` scales as the engine does
(csrc/core/frame.h).

PNG: the W3C recommendation (third edition); PGM/PPM: the netpbm manual pages.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from adfast.errors import DataError, FrameError
from adfast.files import atomic_write

#: Largest number of pixels an image may declare; checked before anything is allocated.
MAX_PIXELS = 2**28
#: Largest image file that is read (bytes): the raw size of MAX_PIXELS pixels of RGBA, and room for
#: headers.
MAX_BYTES = 4 * MAX_PIXELS + 2**20
#: What `list_images` takes for an image, by the end of its name.
EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"),
    *(".pgm", ".ppm", ".pnm", ".npy"),
)

#: Pixel formats of more than 8 bits, by their names in GenICam's PFNC: bits of a value.
DEEP_FORMATS = {"Mono10": 10, "Mono12": 12, "Mono16": 16}

_HEADER_BYTES = 2**16
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colour type -> (channels stored, bit depths that may be 8 or fewer).
_PNG_COLOURS = {
    0: (1, (1, 2, 4, 8)),
    2: (3, (8,)),
    3: (1, (1, 2, 4, 8)),
    4: (2, (8,)),
    6: (4, (8,)),
}


def read_image(path: str | os.PathLike[str], pixel_format: str = "") -> np.ndarray:
    """Read an image file.

    Args:
        path: the file.
        pixel_format: one of `DEEP_FORMATS`: the file is a grey PNG, PGM or TIFF of 16 bits a
            sample, or an NPY file of uint16 (H, W). Any other name, or none: a file of 8 bits.

    Returns:
        C-contiguous; uint8, (H, W) for grey images and (H, W, 3) RGB for all others; of a deep
        format uint16 (H, W) in the machine's byte order, values as stored: 0 to 2**bits - 1, larger
        ones kept, as the engine keeps them.

    Raises:
        FrameError: the file is missing, broken, too large, of another depth than the format's, or
            of a kind that needs Pillow.
    """
    path, deep = Path(path), _deep(pixel_format)
    try:
        _expect_file(path)
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise FrameError(f"{path}: {size} bytes; images of up to {MAX_BYTES} bytes are read")
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data:
        raise FrameError(f"{path}: the file is empty; expected an image")
    try:
        if data.startswith(_PNG_SIGNATURE):
            return _read_png(data, deep)
        if data[:2] in (b"P2", b"P3", b"P5", b"P6"):
            return _read_pnm(data, deep)
        if data.startswith(b"\x93NUMPY"):
            return _read_npy(path, deep)
        return _read_pillow(data, deep)
    except FrameError as error:
        raise FrameError(f"{path}: {error}") from error.__cause__


def to_255(frame: np.ndarray, pixel_format: str) -> np.ndarray:
    """Scale a frame of a deep format as the engine does, to the range of 8 bits, unrounded.

    Args:
        frame: what `read_image` gave for this format.
        pixel_format: the name of the format.

    Returns:
        float32 (H, W), 0 to 255 for the values that the format has; frames of 8 bits as they are.
    """
    if not _deep(pixel_format):
        return frame
    return frame.astype(np.float32) * np.float32(255 / largest_value(pixel_format))


def to_uint8(frame: np.ndarray, pixel_format: str) -> np.ndarray:
    """Round a frame of a deep format to 8 bits, to be looked at: uint8; others as they are."""
    if not _deep(pixel_format):
        return frame
    return np.rint(np.minimum(to_255(frame, pixel_format), 255)).astype(np.uint8)


def largest_value(pixel_format: str) -> int:
    """Return the value of white: 255, or that of a deep format."""
    return 2 ** DEEP_FORMATS.get(pixel_format, 8) - 1


def _deep(pixel_format: str) -> str:
    return pixel_format if pixel_format in DEEP_FORMATS else ""


def _expect_depth(deep: str, kind: str, bits: int, grey: bool) -> None:
    """Refuse a file of another depth than the one that was named."""
    if not deep and bits > 8:
        raise FrameError(
            f"a {bits}-bit {kind}; its values do not say what is white: name its pixel format "
            f"({', '.join(DEEP_FORMATS)}) with --pixel-format, or pixel_format= in Python"
        )
    if deep and (bits != 16 or not grey):
        raise FrameError(
            f"a {bits}-bit {kind}{'' if grey else ' that is not plain grey'}, expected grey of 16 "
            f"bits a sample for {deep}; leave --pixel-format out for images of 8 bits"
        )


def _expect_file(path: Path) -> None:
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise FrameError(f"{path}: {what}; expected an image")


def image_size(path: str | os.PathLike[str], pixel_format: str = "") -> tuple[int, int]:
    """Return an image file's height and width from its header: nothing is decoded.

    Args:
        path: the file.
        pixel_format: as for `read_image`.

    Raises:
        FrameError: as `read_image`, as far as a header tells; damaged pixels go unnoticed.
    """
    path, deep = Path(path), _deep(pixel_format)
    try:
        _expect_file(path)
        with open(path, "rb") as file:
            data = file.read(_HEADER_BYTES)
    except OSError as error:
        raise FrameError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data:
        raise FrameError(f"{path}: the file is empty; expected an image")
    try:
        if data.startswith(_PNG_SIGNATURE):
            if len(data) < 33 or data[12:16] != b"IHDR":
                raise FrameError("not a valid PNG: the header is missing or broken")
            width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
            _check_size(height, width)
            _expect_depth(deep, "PNG", depth, colour == 0)
            return height, width
        if data[:2] in (b"P2", b"P3", b"P5", b"P6"):
            width, height = _pnm_header(data, deep)[:2]
            return height, width
        if data.startswith(b"\x93NUMPY"):
            return _read_npy(path, deep, header_only=True).shape[:2]
        with _opened_by_pillow(path, deep) as image:
            return image.height, image.width
    except FrameError as error:
        raise FrameError(f"{path}: {error}") from error.__cause__


def check_images(
    paths: Iterable[str | os.PathLike[str]], what: str, pixel_format: str = ""
) -> None:
    """Look at the headers of images, of a format as for `read_image`, before long work begins.

    Raises:
        DataError: some cannot be read; lists them.
    """
    problems = []
    for path in paths:
        try:
            image_size(path, pixel_format)
        except FrameError as error:
            problems.append(str(error))
    refuse(problems, what)


def refuse(problems: list[str], what: str) -> None:
    """Raise a DataError that lists the first ten problems and counts the others; none: return."""
    if not problems:
        return
    shown = [*problems[:10], *([f"and {len(problems) - 10} more"] if len(problems) > 10 else [])]
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    raise DataError("\n  ".join([f"{what}: {count}", *shown]))


def list_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Collect image files: a file stands for itself, a folder for all images below it, sorted.

    The order of the arguments is kept; a file met twice is listed once. Hidden files and folders
    are skipped.

    Raises:
        DataError: an argument does not exist, or a folder holds no image.
    """
    found: dict[Path, Path] = {}
    for given in map(Path, paths):
        if given.is_dir():
            inside = sorted(
                Path(folder, name)
                for folder, folders, names in os.walk(given)
                if _keep_visible(folders)
                for name in names
                if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
            )
            if not inside:
                raise DataError(f"{given}: no image in this folder ({', '.join(EXTENSIONS)})")
            files = inside
        elif given.exists():
            files = [given]
        else:
            raise DataError(f"{given}: no such file or folder")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def write_png(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write a PNG; readers never meet half of it (see `encode_png` for the accepted arrays)."""
    data = encode_png(array)
    with atomic_write(path) as file:
        file.write(data)


def encode_png(array: np.ndarray) -> bytes:
    """Encode an array as PNG.

    Args:
        array: uint8 (H, W) or (H, W, 3), or uint16 (H, W); any strides.
    """
    array = np.asarray(array)
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if not (grey or (array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8)):
        raise FrameError(
            f"encode_png: got {array.dtype} {array.shape}; "
            "expected uint8 (H, W) or (H, W, 3), or uint16 (H, W)"
        )
    height, width = array.shape[:2]
    if height == 0 or width == 0:
        raise FrameError(f"encode_png: an empty image, {array.shape}")
    depth = 8 * array.dtype.itemsize
    rows = np.ascontiguousarray(array.astype(">u2") if depth == 16 else array)
    rows = rows.view(np.uint8).reshape(height, -1)
    # Filter 2 ("up") on every row: photographs shrink by a third and the encoder stays two lines.
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, depth, 0 if grey else 2, 0, 0, 0)
    body = zlib.compress(filtered, 6)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _keep_visible(folders: list[str]) -> bool:
    folders[:] = [name for name in folders if not name.startswith(".")]
    return True


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise FrameError(f"the image declares {width} x {height} pixels")
    if height * width > MAX_PIXELS:
        raise FrameError(
            f"the image declares {width} x {height} pixels; up to {MAX_PIXELS} are accepted"
        )


def _read_png(data: bytes, deep: str) -> np.ndarray:
    header, palette, body = _png_chunks(data)
    width, height, depth, colour, compression, filtering, interlace = header
    _check_size(height, width)
    _expect_depth(deep, "PNG", depth, colour == 0)
    if not deep and (colour not in _PNG_COLOURS or depth not in _PNG_COLOURS[colour][1]):
        raise FrameError(f"not a valid PNG: colour type {colour} with {depth} bits")
    if compression or filtering or interlace > 1:
        raise FrameError("not a valid PNG: unknown compression, filter or interlace method")
    if colour == 3 and (palette is None or len(palette) % 3 or not 3 <= len(palette) <= 768):
        raise FrameError("not a valid PNG: the palette is missing or broken")
    channels = _PNG_COLOURS[colour][0]
    row_bytes = (width * channels * depth + 7) // 8
    expected = height * (row_bytes + 1)
    # Deflate shrinks at most 1032 to 1, so a few bytes cannot make anyone allocate a huge image.
    if expected > 1032 * (len(body) + 1):
        raise FrameError("the PNG holds fewer pixels than its header declares")
    if _has_pillow():
        return _read_pillow(data, deep)
    if interlace:
        raise FrameError(
            'an interlaced PNG needs Pillow (pip install "adfast[images]"), '
            "or save it without interlacing"
        )
    inflate = zlib.decompressobj()
    try:
        # One byte more than needed is let through: a stream that expands for ever ends here.
        raw = inflate.decompress(body, expected + 1)
    except zlib.error as error:
        raise FrameError(f"the PNG's pixels do not decompress ({error})") from error
    if len(raw) != expected:
        more = "more" if len(raw) > expected else "fewer"
        raise FrameError(f"the PNG holds {more} pixels than its header declares")
    rows = np.frombuffer(raw, np.uint8).reshape(height, row_bytes + 1)
    pixels = _unfilter(rows[:, 1:], rows[:, 0], max(1, channels * depth // 8))
    if deep:
        return pixels.view(">u2").astype(np.uint16)
    if depth < 8:
        bits = np.unpackbits(pixels, axis=1).reshape(height, -1, depth)
        weights = (1 << np.arange(depth - 1, -1, -1)).astype(np.uint8)
        pixels = (bits * weights).sum(axis=2, dtype=np.uint8)[:, :width]
        if colour == 0:
            pixels = pixels * np.uint8(255 // (2**depth - 1))
    if colour == 3:
        table = np.zeros((256, 3), np.uint8)
        table[: len(palette) // 3] = np.frombuffer(palette, np.uint8).reshape(-1, 3)
        return table[pixels]
    pixels = pixels.reshape(height, width, channels)
    return np.ascontiguousarray(pixels[..., 0] if channels < 3 else pixels[..., :3])


def _png_chunks(data: bytes) -> tuple[tuple[int, ...], bytes | None, bytes]:
    """Split a PNG into header, palette and pixels, checking lengths, order and every CRC."""
    at, header, palette, body = len(_PNG_SIGNATURE), None, None, []
    while True:
        if at + 12 > len(data):
            raise FrameError("the PNG is truncated")
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if length > len(data) - at - 12:
            raise FrameError(f"the PNG is truncated in its chunk {kind!r}")
        content = data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        if crc != zlib.crc32(content, zlib.crc32(kind)):
            raise FrameError(f"the PNG is damaged: wrong CRC in its chunk {kind!r}")
        if (kind == b"IHDR") != (header is None) or (kind == b"IHDR" and length != 13):
            raise FrameError("not a valid PNG: the header is missing or broken")
        if kind == b"IHDR":
            header = struct.unpack(">IIBBBBB", content)
        elif kind == b"PLTE":
            palette = content
        elif kind == b"IDAT":
            body.append(content)
        elif kind == b"IEND":
            break
        at += 12 + length
    if not body:
        raise FrameError("not a valid PNG: it holds no pixels")
    return header, palette, b"".join(body)


def _unfilter(rows: np.ndarray, filters: np.ndarray, step: int) -> np.ndarray:
    """Undo the PNG row filters (recommendation, section 9): rows (H, bytes) -> the same shape.

    "Average" and "Paeth" depend on left, upper and upper-left neighbours, so neither rows nor
    columns can be done at once; the pixels of one anti-diagonal can, and in the flat padded array
    they lie a constant stride apart.
    """
    height, row_bytes = rows.shape
    if filters.max() > 4:
        raise FrameError(f"not a valid PNG: row filter {int(filters.max())}")
    if filters.max() < 3:
        out = np.array(rows)
        for y in range(height):
            if filters[y] == 1:
                by_pixel = out[y].reshape(-1, step)
                np.cumsum(by_pixel, axis=0, dtype=np.uint8, out=by_pixel)
            elif filters[y] == 2 and y:
                out[y] += out[y - 1]
        return out
    width = row_bytes // step
    padded = np.zeros((height + 1, width + 1, step), np.uint8)
    padded[1:, 1:] = rows.reshape(height, width, step)
    flat = padded.reshape(-1, step)
    kinds = np.concatenate([np.zeros(1, np.uint8), filters])[:, None]
    for diagonal in range(2, height + width + 1):
        top, bottom = max(1, diagonal - width), min(height, diagonal - 1)
        here = slice(diagonal + top * width, diagonal + bottom * width + 1, width)
        at = np.arange(here.start, here.stop, width)
        left = flat[at - 1].astype(np.int16)
        up = flat[at - width - 1].astype(np.int16)
        corner = flat[at - width - 2].astype(np.int16)
        kind = kinds[top : bottom + 1]
        # Distances of the linear prediction left + up - corner from each neighbour.
        to_left, to_up = np.abs(up - corner), np.abs(left - corner)
        to_corner = np.abs(left + up - 2 * corner)
        paeth = np.where(to_up <= to_corner, up, corner)
        paeth = np.where((to_left <= to_up) & (to_left <= to_corner), left, paeth)
        guess = np.choose(kind, [np.zeros_like(left), left, up, (left + up) >> 1, paeth])
        flat[here] += guess.astype(np.uint8)
    return np.ascontiguousarray(padded[1:, 1:]).reshape(height, row_bytes)


def _pnm_header(data: bytes, deep: str) -> tuple[int, int, int, int]:
    """Return width, height, largest value, and where the header ends."""
    fields, at = [], 2
    # Width, height and the largest value, between white space and comments.
    for name in ("width", "height", "largest value"):
        match = re.compile(rb"(?:\s+|#[^\n]*\n)+(\d{1,10})(?=\s|#)").match(data, at)
        if match is None:
            raise FrameError(f"not a valid {data[:2].decode()} file: its {name} is missing")
        fields.append(int(match[1]))
        at = match.end()
    width, height, largest = fields
    _check_size(height, width)
    if not 1 <= largest <= 65535:
        raise FrameError(f"not a valid PNM: its largest value is {largest}")
    _expect_depth(deep, "PNM", 16 if largest > 255 else 8, data[:2] in (b"P2", b"P5"))
    # Programs declare the camera's white, or that of any 16 bits; another one is of another format.
    if deep and largest not in (largest_value(deep), 65535):
        raise FrameError(
            f"the PNM declares {largest} as its largest value, {deep} has {largest_value(deep)}; "
            "name the format that the images have"
        )
    return width, height, largest, at


def _read_pnm(data: bytes, deep: str) -> np.ndarray:
    width, height, largest, at = _pnm_header(data, deep)
    channels = 3 if data[:2] in (b"P3", b"P6") else 1
    count = height * width * channels
    if data[:2] in (b"P5", b"P6"):
        at += 1
        stored = np.dtype(">u2" if deep else np.uint8)
        size = count * stored.itemsize
        if len(data) - at < size:
            raise FrameError(f"the PNM is truncated: {len(data) - at} bytes of {size}")
        values = np.frombuffer(data, stored, count, at)
    else:
        text = data[at:].split()
        if len(text) < count:
            raise FrameError(f"the PNM is truncated: {len(text)} values of {count}")
        try:
            wide = np.array([int(word) for word in text[:count]])
        except ValueError as error:
            raise FrameError(f"not a valid PNM: {error}") from error
        if wide.min() < 0 or wide.max() > largest:
            raise FrameError(f"not a valid PNM: a value is outside 0..{largest}")
        values = wide.astype(np.uint16 if deep else np.uint8)
    if deep:
        return values.astype(np.uint16).reshape(height, width)
    if largest != 255:
        values = np.minimum((values.astype(np.int32) * 255 + largest // 2) // largest, 255)
    values = values.astype(np.uint8)
    return values.reshape((height, width, 3) if channels == 3 else (height, width))


def _read_npy(path: Path, deep: str, header_only: bool = False) -> np.ndarray:
    try:
        # Mapped, not loaded: a huge declared shape fails here instead of being allocated.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy parses the header with Python's tokenizer and literal_eval
        raise FrameError(f"not a readable NPY file ({error})") from error
    grey = array.ndim == 2
    if array.dtype.kind != "u" or not (grey or (array.ndim == 3 and array.shape[2] == 3)):
        raise FrameError(
            f"holds {array.dtype} {array.shape}; expected uint8 (H, W) or (H, W, 3), or uint16 "
            "(H, W) of a pixel format that is named"
        )
    _expect_depth(deep, "NPY file", 8 * array.dtype.itemsize, grey)
    _check_size(*array.shape[:2])
    return array if header_only else np.array(array, np.uint16 if deep else np.uint8, order="C")


def _has_pillow() -> bool:
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def _opened_by_pillow(source: Path | io.BytesIO, deep: str) -> Iterator[Any]:
    """Open an image lazily: size and kind are checked, pixels are decoded when asked for."""
    if not _has_pillow():
        raise FrameError(
            "not a PNG, PGM, PPM or NPY file; other kinds (JPEG, BMP, TIFF, ...) need Pillow: "
            'pip install "adfast[images]"'
        )
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning; our cap is checked below.
            with Image.open(source) as image:
                _check_size(image.height, image.width)
                # Older versions of Pillow open a PNG of 16 bits in mode I.
                of_16 = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG")
                if image.mode.startswith(("I", "F")) and not of_16:
                    raise FrameError(
                        f"more than 16 bits a sample, or no whole numbers (mode {image.mode}); "
                        f"expected 8, or 16 of a format that is named ({', '.join(DEEP_FORMATS)})"
                    )
                grey = of_16 or image.mode in ("1", "L")
                # Pillow opens colour of 16 bits as if it had 8; TIFF's tag 258 tells.
                stored = np.max(getattr(image, "tag_v2", {}).get(258, 8))
                bits = 16 if of_16 or stored > 8 else 8
                _expect_depth(deep, f"{image.format} file", bits, grey)
                yield image
    except FrameError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen different classes on broken files.
        text = str(error).split("<_io")[0].strip() or type(error).__name__
        raise FrameError(f"not a readable image ({text})") from error


def _read_pillow(data: bytes, deep: str) -> np.ndarray:
    with _opened_by_pillow(io.BytesIO(data), deep) as image:
        if deep:
            return np.array(image).astype(np.uint16)
        grey = image.mode in ("1", "L", "LA")
        # Alpha is dropped by slicing: Pillow's own conversion is the same, but says so nowhere.
        if image.mode in ("LA", "RGBA"):
            stored = np.asarray(image)
            return np.ascontiguousarray(stored[..., 0] if grey else stored[..., :3])
        return np.array(image.convert("L" if grey else "RGB"))
