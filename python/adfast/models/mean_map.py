"""The mean map of a run: what a model's map shows of good images, for models that subtract it.

It is computed once over the images the run was trained on, never over others, and kept beside them:
RUN/mean_map.safetensors, stamped with the SHA-256 of the best.safetensors it was computed with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from adfast.data.folder import load_image, to_network
from adfast.errors import AdfastError, DataError
from adfast.files import atomic_path
from adfast.models import run_pixel_format
from adfast.models.detector import Detector
from adfast.progress import Track

NAME = "mean_map.safetensors"


def settle(
    model: Detector, run_dir: Path, info: dict, track: Track, log: Callable[[str], None]
) -> None:
    """Fill `model.mean_map` from the run's file, or compute it and write the file.

    Args:
        model: with the weights of best.safetensors, in eval mode, in float32, on the CPU.
        run_dir: the run folder.
        info: its config.json.
        track: wraps the images, to show progress: track(items, what).
        log: is told if the file cannot be written; the map is then in memory only.

    Raises:
        DataError: the map has to be computed, and training images are missing or unreadable.
    """
    stamp = hashlib.sha256((run_dir / "best.safetensors").read_bytes()).hexdigest()
    path = run_dir / NAME
    mean = _read(path, stamp, model.mean_map.shape)
    if mean is None:
        paths = training_images(model, run_dir, info)
        mean = compute(model, paths, track, run_pixel_format(run_dir, info))
        try:
            with atomic_path(path) as temporary:
                tensors = {"mean_map": mean.contiguous()}
                save_file(tensors, temporary, metadata={"best_sha256": stamp})
        except AdfastError as error:
            log(f"the mean map is not kept and will be computed again next time: {error}")
    model.mean_map.copy_(mean)


def training_images(model: Detector, run_dir: Path, info: dict) -> list[Path]:
    """Return the images of the mean: all the run was trained on, or the config's `mean_map_images`.

    Raises:
        DataError: some are missing.
    """
    data = info.get("data") or {}
    paths = [Path(data.get("root", ""), name) for name in data.get("train", ())]
    count = getattr(model.config, "mean_map_images", None) or len(paths)
    if count < len(paths):  # evenly spread
        paths = [paths[i * len(paths) // count] for i in range(count)]
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        what = f"{len(missing)} of {len(paths)} are missing, first {missing[0]}" if missing else ""
        raise DataError(
            f"{run_dir}: the mean map of {info['model']} is computed once over the run's training "
            f"images, and {what or 'the run names none'}; put them back where they were, or copy "
            f"{NAME} from a folder of this run that has it"
        )
    return paths


@torch.no_grad()
def compute(model: Detector, paths: Sequence[Path], track: Track, pixel_format: str = "") -> Tensor:
    """Return the mean of `uncalibrated_map` over images: [1, 1, h, w], summed in float64."""
    total = torch.zeros_like(model.mean_map, dtype=torch.float64)
    for path in track(paths, "mean map"):
        frame = load_image(path, pixel_format)
        image = to_network(frame, model.config.resize, model.config.crop)
        total += model.uncalibrated_map(image[None])
    return (total / len(paths)).float()


def _read(path: Path, stamp: str, shape: torch.Size) -> Tensor | None:
    """Return the map of a file that belongs to these weights; None if there is none."""
    try:
        with safe_open(path, framework="pt") as file:
            mean = file.get_tensor("mean_map")
            return mean if file.metadata()["best_sha256"] == stamp and mean.shape == shape else None
    except Exception:  # missing, damaged, of another kind: it is computed again
        return None
