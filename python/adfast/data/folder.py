"""Image folders in the layout of MVTec AD.

    ROOT/train/good/*               good images, for training
    ROOT/test/good/*                good images, for evaluation
    ROOT/test/<defect>/*            defective images
    ROOT/ground_truth/<defect>/*_mask.png

Needs numpy; `to_network` needs torch. Lists of images are text files: one path relative
to ROOT per line; empty lines and lines that start with # are skipped.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adfast.errors import DataError, FrameError
from adfast.images import EXTENSIONS, read_image, to_255

if TYPE_CHECKING:
    from torch import Tensor


def find_images(folder: str | Path) -> list[Path]:
    """Return the images directly inside a folder, sorted by name; hidden files are not images.

    Raises:
        DataError: the folder does not exist or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"folder {folder} does not exist")
    files = (p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and p.is_file())
    paths = sorted(path for path in files if not path.name.startswith("."))
    if not paths:
        raise DataError(f"folder {folder} holds no images ({', '.join(EXTENSIONS)})")
    return paths


def read_list(path: str | Path, root: str | Path) -> list[Path]:
    """Read a list of images: paths relative to `root`, in the file's order.

    Raises:
        DataError: the list cannot be read, is empty, names a file twice or one that is missing.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list {path}: {error}") from error
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise DataError(f"the list {path} names no images; write one relative path per line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"the list {path} names {twice} more than once")
    paths = [Path(root) / name for name in names]
    missing = [str(p) for p in paths if not p.is_file()]
    if missing:
        raise DataError(f"{len(missing)} files of the list {path} do not exist, first {missing[0]}")
    return paths


def good_images(root: str | Path, list_file: str | Path | None = None) -> list[Path]:
    """Return the good training images: those of a list, or all of ROOT/train/good.

    Raises:
        DataError: there are none; says which layout is expected.
    """
    if list_file is not None:
        return read_list(list_file, root)
    try:
        return find_images(Path(root) / "train" / "good")
    except DataError as error:
        raise DataError(
            f"no good images to train on: {error}. Expected the MVTec layout, DATA/train/good/*.png"
        ) from error


def split_good(
    paths: Sequence[Path], fraction: float = 0.8, seed: int = 0
) -> tuple[list[Path], list[Path]]:
    """Split good images at random into training and validation images, at least one of each.

    Args:
        paths: at least two images.
        fraction: share of the training images, in (0, 1).
        seed: same seed and paths, same split.

    Raises:
        DataError: fewer than two images.
    """
    if len(paths) < 2:
        raise DataError(f"{len(paths)} good image; expected at least 2, one of them to validate")
    order = list(paths)
    random.Random(seed).shuffle(order)
    count = min(max(1, round(fraction * len(order))), len(order) - 1)
    return sorted(order[:count]), sorted(order[count:])


def load_image(path: str | Path, pixel_format: str = "") -> np.ndarray:
    """Read an image file, as prediction does, as [H, W, 3], RGB; grey is repeated.

    Args:
        path: the file.
        pixel_format: of files of 16 bits a sample, see `adfast.images.read_image`.

    Returns:
        uint8, or float32 of a deep format: its values, 0 to 255 for those that it has.

    Raises:
        DataError: names the file that is missing, damaged, or of another depth than the format's.
    """
    try:
        pixels = to_255(read_image(path, pixel_format), pixel_format)
    except FrameError as error:
        raise DataError(str(error)) from error
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return pixels


def to_network(frame: np.ndarray, resize: tuple[int, int], crop: tuple[int, int]) -> Tensor:
    """Stretch a frame to `resize` with antialiasing and cut the centre: what training sees.

    Args:
        frame: [H, W, 3], RGB, uint8 or float32 of 0 to 255; see `load_image`.
        resize: height and width after stretching; the aspect ratio is not kept.
        crop: height and width of the centre crop; top is (resize - crop) // 2, left alike.

    Returns:
        float32 [3, crop height, crop width], RGB in [0, 1].
    """
    import torch
    import torch.nn.functional as F

    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    resized = F.interpolate(
        pixels, size=tuple(resize), mode="bilinear", antialias=True, align_corners=False
    )
    top, left = ((r - c) // 2 for r, c in zip(resize, crop, strict=True))
    return resized[0, :, top : top + crop[0], left : left + crop[1]] / 255


def test_set(
    root: str | Path, list_file: str | Path | None = None
) -> list[tuple[Path, str, Path | None]]:
    """Return the test images as (path, label, mask).

    Args:
        root: folder in the MVTec layout.
        list_file: test images to use instead of all of ROOT/test/*/*; see `read_list`. The label is
            the name of the folder an image lies in, so good images of train/good may be listed too.

    Returns:
        Sorted by label and name. The label is "good" or the defect's name; the mask is None for
        good images and where ground_truth has no <stem>_mask.png or <stem>.png.

    Raises:
        DataError: there are no test images.
    """
    root = Path(root)
    if list_file is not None:
        paths = read_list(list_file, root)
    else:
        folders = sorted(p for p in (root / "test").glob("*") if p.is_dir())
        if not folders:
            raise DataError(f"{root}/test holds no folders; expected the MVTec layout, test/good/*")
        paths = [path for folder in folders for path in find_images(folder)]
    found = []
    for path in sorted(paths, key=lambda p: (p.parent.name, p.name)):
        label = path.parent.name
        masks = root / "ground_truth" / label
        names = (f"{path.stem}_mask.png", f"{path.stem}.png")
        mask = next((masks / name for name in names if (masks / name).is_file()), None)
        found.append((path, label, None if label == "good" else mask))
    return found


def dataset_sha256(root: str | Path, paths: Iterable[Path]) -> str:
    """Return one hash over relative names and bytes of images, whatever their order."""
    total = hashlib.sha256()
    for path in sorted(paths):
        name = path.relative_to(root).as_posix()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()


def resize_for(crop: int) -> int:
    """Return the side to stretch to for a crop: 256 for 224 as the paper, else in proportion."""
    return round(crop * 256 / 224)
