"""Images with known anomalies, for models that learn from them (ADTR+).

They are in the layout of a test set: DIR/test/<defect>/*.png, and for labels per pixel
DIR/ground_truth/<defect>/<name>_mask.png. What is trained on can no more be tested on: give images
that no test set has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adfast.data.folder import find_images, load_image, test_set, to_network
from adfast.errors import DataError
from adfast.training.feed import refuse_unusable
from adfast.training.reporting import Reporter


class Labelled:
    """Anomalous images as the network sees them, with their labels, in memory.

    Args:
        root: the folder.
        masks: whether labels per pixel are needed; without, an image is anomalous as a whole.
        resize: see `to_network`.
        crop: see `to_network`.
        grid: height and width of the labels.
        fraction: share that is trained on; the rest validates. A single image does both.
        seed: of that split.
        report: is told of the progress.
        pixel_format: of images of 16 bits a sample, see `load_image`; masks have 8.

    Attributes:
        train: indices of the images that are trained on.
        held: indices of the others.
        images: [N, 3, H, W], RGB in [0, 1].
        labels: float32 [N, 1, *grid], 1 where any pixel of the token is anomalous.

    Raises:
        DataError: there are no defects, or images or masks that cannot be used: all are named.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        masks: bool,
        resize: tuple[int, int],
        crop: tuple[int, int],
        grid: tuple[int, int],
        fraction: float,
        seed: int,
        report: Reporter,
        pixel_format: str = "",
    ) -> None:
        root = Path(root)
        found = anomalies(root)
        images, labels, problems = [], [], []
        report.phase("reading labelled images", len(found))
        for path, mask_path in found:
            try:
                frame = load_image(path, pixel_format)
                image = to_network(frame, resize, crop)
                label = torch.ones(1, *grid)
                if masks:
                    label = _on_grid(_mask(root, path, mask_path, frame), resize, crop, grid)
                    if not label.any():
                        raise DataError(f"{mask_path}: nothing is marked in the part that is seen")
                images.append(image)
                labels.append(label)
            except DataError as error:
                problems.append(str(error))
            report.advance(1)
        report.close()
        refuse_unusable(problems, len(found), "labelled images")
        self.images, self.labels = torch.stack(images), torch.stack(labels)
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
        count = min(max(1, round(fraction * len(found))), max(1, len(found) - 1))
        self.train = order[:count].sort().values
        self.held = order[count:].sort().values if count < len(found) else self.train

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw indices of `count` images to train on, repeated only if there are fewer."""
        rounds = -(-count // len(self.train))
        perms = [torch.randperm(len(self.train), generator=generator) for _ in range(rounds)]
        return self.train[torch.cat(perms)[:count]]


def anomalies(root: str | Path) -> list[tuple[Path, Path | None]]:
    """Return the anomalous images of a folder with their masks.

    Raises:
        DataError: there are none; says which layout is expected.
    """
    try:
        found = [(path, mask) for path, label, mask in test_set(root) if label != "good"]
        reason = "it has no folder of a defect"
    except DataError as error:
        found, reason = [], str(error)
    if not found:
        raise DataError(f"no labelled anomalies: {reason}. Expected {root}/test/<defect>/*.png")
    return found


def tested_with(root: str | Path, paths: Sequence[Path]) -> int:
    """Return how many of the images are those of a data set's test set, by place or by bytes."""
    folders = [folder for folder in (Path(root) / "test").glob("*") if folder.is_dir()]
    theirs: dict[int, list[Path]] = {}
    for folder in folders:
        try:
            for path in find_images(folder):
                theirs.setdefault(path.stat().st_size, []).append(path)
        except DataError:  # an empty folder
            continue

    def same(a: Path, b: Path) -> bool:
        return a.samefile(b) or a.read_bytes() == b.read_bytes()

    return sum(any(same(path, b) for b in theirs.get(path.stat().st_size, ())) for path in paths)


def _mask(root: Path, path: Path, mask_path: Path | None, frame: np.ndarray) -> np.ndarray:
    """Read a mask -> bool (H, W), that of its image's frame."""
    if mask_path is None:
        expected = root / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        raise DataError(f"{path} has no mask; expected {expected} (or use --labels image)")
    mask = load_image(mask_path)
    if mask.shape != frame.shape:
        raise DataError(
            f"{mask_path} is {mask.shape[1]} x {mask.shape[0]}, expected that of its image, "
            f"{frame.shape[1]} x {frame.shape[0]}"
        )
    return mask.any(axis=2)


def _on_grid(
    mask: np.ndarray, resize: tuple[int, int], crop: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """Take a mask (H, W) the way of its image, then to tokens: float32 [1, *grid], 0 or 1."""
    pixels = np.repeat(mask[:, :, None], 3, axis=2).astype(np.uint8) * 255
    marked = to_network(pixels, resize, crop)[:1] > 0  # any of it, so that none is lost (ours)
    return F.adaptive_max_pool2d(marked.float(), grid)
