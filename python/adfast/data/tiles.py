"""A data set of large images as one of tiles, for models that inspect large frames in tiles.

Tiles are placed as the engine places them in a frame (csrc/runtime/tiles.cpp): the first at the
image's edge, the last at the other, evenly between, each sharing `overlap` pixels or more with the
next.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from adfast.data.folder import find_images, test_set
from adfast.errors import AdfastError, DataError
from adfast.images import read_image, write_png
from adfast.progress import Track, silent


def tile_places(length: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles begin along an axis of `length` pixels.

    Args:
        length: of the image's side.
        tile: of the tile's side; an image that is no longer has one tile, itself.
        overlap: that neighbours share at least, from 0 to tile - 1.
    """
    rest = max(0, length - tile)
    count = -(-rest // (tile - overlap)) + 1
    return [0] if count == 1 else [
        (2 * i * rest + count - 1) // (2 * (count - 1)) for i in range(count)
    ]  # fmt: skip


def cut(
    image: np.ndarray, tile: tuple[int, int], overlap: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield top, left and pixels of each tile of an image (H, W, ...)."""
    height, width = (min(a, b) for a, b in zip(image.shape[:2], tile, strict=True))
    for top in tile_places(image.shape[0], tile[0], overlap):
        for left in tile_places(image.shape[1], tile[1], overlap):
            yield top, left, image[top : top + height, left : left + width]


def write_tiles(
    source: str | Path,
    out: str | Path,
    tile: tuple[int, int],
    overlap: int,
    track: Track = silent,
    pixel_format: str = "",
) -> dict[str, int]:
    """Cut a data set in the layout of MVTec AD into tiles, in a new folder of that layout.

    A tile of a defective image is defective where its mask has a pixel in it, else good.

    Args:
        source: folder with train/good and, perhaps, test/ and ground_truth/.
        out: folder to make; must not exist, or be empty.
        tile: height and width in pixels.
        overlap: see `tile_places`.
        track: wraps the images, to show progress: track(items, what).
        pixel_format: of images of 16 bits a sample, see `adfast.images.read_image`; their tiles are
            PNG files of 16 bits with the values as they are. Masks have 8.

    Returns:
        How many tiles each folder got, as {"train/good": 120, "test/scratch": 14, ...}.

    Raises:
        DataError: there are no images, a defective image has no mask, or one of another size.
        AdfastError: `out` is not empty, or cannot be written.
    """
    source, out = Path(source), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AdfastError(f"{out} exists and is not empty; name a new folder")
    work: list[tuple[Path, str, Path | None]] = [
        (path, "train/good", None) for path in find_images(source / "train" / "good")
    ]
    if (source / "test").is_dir():
        for path, label, mask in test_set(source):
            if label != "good" and mask is None:
                raise DataError(
                    f"{path} has no mask, which says which of its tiles are defective; expected "
                    f"{source}/ground_truth/{label}/{path.stem}_mask.png"
                )
            work.append((path, f"test/{label}", mask))
    counts: dict[str, int] = {}
    for path, place, mask_path in track(work, "images"):
        image = read_image(path, pixel_format)
        mask = None if mask_path is None else _mask(mask_path, image)
        for top, left, pixels in cut(image, tile, overlap):
            inside = None if mask is None else mask[top : top + tile[0], left : left + tile[1]]
            marked = inside is not None and inside.any()
            folder = "test/good" if inside is not None and not marked else place
            # Names of several folders meet in test/good.
            parent = f"{path.parent.name}_" if folder != place else ""
            name = f"{parent}{path.stem}_y{top}_x{left}"
            _write(out / folder / f"{name}.png", pixels)
            if marked:
                truth = out / "ground_truth" / path.parent.name / f"{name}_mask.png"
                _write(truth, inside.astype(np.uint8) * 255)
            counts[folder] = counts.get(folder, 0) + 1
    return counts


def _mask(path: Path, image: np.ndarray) -> np.ndarray:
    mask = read_image(path)
    if mask.shape[:2] != image.shape[:2]:
        raise DataError(
            f"{path} is {mask.shape[1]} x {mask.shape[0]}, expected that of its image, "
            f"{image.shape[1]} x {image.shape[0]}"
        )
    return (mask if mask.ndim == 2 else mask.any(axis=2)) > 0


def _write(path: Path, pixels: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AdfastError(
            f"cannot create {path.parent}: {error.strerror or error}; choose another --out"
        ) from error
    write_png(path, pixels)
