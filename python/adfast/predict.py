"""Predict image files with an engine and write what a person wants to see of it.

The engine is anything with the `predict(array) -> Result` and `info` of `adfast.Engine`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adfast import overlay
from adfast.errors import AdfastError, FrameError
from adfast.files import atomic_write
from adfast.images import read_image, to_uint8, write_png
from adfast.result import Region


@dataclass
class Prediction:
    """One image file: its frame, in 8 bits to be looked at, and result, or why there is none."""

    path: Path
    frame: np.ndarray | None = None
    result: Any = None
    error: str | None = None


def predict_files(
    engine: Any, paths: list[Path], *, pixel_format: str = "", **parts: Any
) -> Iterator[Prediction]:
    """Predict files one after another; one that cannot be read is yielded with its error.

    Args:
        engine: see the top of this file.
        paths: the files.
        pixel_format: of files of 16 bits a sample, see `adfast.images.read_image`.
        parts: what `engine.predict` is told besides: roi, ignore.
    """
    for path in paths:
        try:
            frame = read_image(path, pixel_format)
            result = engine.predict(frame, pixel_format=pixel_format, **parts)
        except FrameError as error:
            text = str(error)
            yield Prediction(path, error=text if str(path) in text else f"{path}: {text}")
        else:
            yield Prediction(path, to_uint8(frame, pixel_format), result)


def verdict(result: Any) -> str:
    """Put `Result.is_anomalous` into a word."""
    if result.is_anomalous is None:
        return "uncalibrated"
    return "ANOMALOUS" if result.is_anomalous else "normal"


def as_record(prediction: Prediction) -> dict[str, Any]:
    """Describe a prediction in JSON's terms; the raw score stands beside threshold and verdict."""
    result = prediction.result
    return {
        "image": str(prediction.path),
        "score": float(result.score),
        "threshold": None if result.threshold is None else float(result.threshold),
        "anomalous": None if result.is_anomalous is None else bool(result.is_anomalous),
        "inspected": [int(side) for side in result.inspected],  # x, y, width, height
        "regions": [] if result.threshold is None else [_region(r) for r in result.regions()],
        "timings_ms": {stage: float(ms) for stage, ms in result.timings.items()},
    }


def _region(region: Region) -> dict[str, Any]:
    return {
        "box": [int(side) for side in region.box],
        "area": int(region.area),
        "peak": float(region.peak),
        "peak_at": [int(at) for at in region.peak_at],
        "mean": float(region.mean),
    }


def output_names(paths: list[Path]) -> dict[Path, Path]:
    """Choose for every image the relative name, without suffix, that its outputs go by.

    Names are relative to the deepest folder common to all images, so images of one name in two
    folders stay apart; two that differ only in their suffix (a.png, a.jpg) keep it.
    """
    places = {path: Path(os.path.abspath(path)) for path in paths}
    common = os.path.commonpath([place.parent for place in places.values()]) if paths else ""
    short = {path: place.relative_to(common).with_suffix("") for path, place in places.items()}
    taken: dict[Path, int] = {}
    for name in short.values():
        taken[name] = taken.get(name, 0) + 1
    return {
        path: name if taken[name] == 1 else name.with_name(Path(path).name.replace(".", "_"))
        for path, name in short.items()
    }


def write_outputs(
    prediction: Prediction, folder: Path, name: Path, kind: str = "png"
) -> list[Path]:
    """Write `<name>_overlay.png`, the raw map and `<name>.json` under `folder`; returns the files.

    Args:
        prediction: a prediction with a result.
        folder: the output folder; it and sub-folders of `name` are created.
        name: relative name from `output_names`.
        kind: raw map as "png" (16-bit grey; the JSON file states scale and offset), "npy" (float32)
            or "both".

    Raises:
        AdfastError: the folder cannot be written.
    """
    base = folder / name
    make_folder(base.parent)
    frame, result = prediction.frame, prediction.result
    scale = overlay.full_scale(result.map, result.threshold)
    picture = overlay.overlay(frame, result.map, scale=scale, mask=result.mask)
    picture = overlay.with_verdict(picture, result.score, result.threshold, result.is_anomalous)
    written = [base.with_name(f"{base.name}_overlay.png")]
    write_png(written[0], picture)
    record = as_record(prediction)
    record["overlay"] = written[0].name
    record["map"] = {}
    if kind in ("png", "both"):
        stored, step, low = overlay.map_to_uint16(result.map)
        written.append(base.with_name(f"{base.name}_map.png"))
        write_png(written[-1], stored)
        record["map"]["png"] = {
            "file": written[-1].name,
            "scale": step,
            "offset": low,
            "meaning": "map = offset + scale * pixel",
        }
    if kind in ("npy", "both"):
        written.append(base.with_name(f"{base.name}_map.npy"))
        with atomic_write(written[-1]) as file:
            np.save(file, np.ascontiguousarray(result.map, np.float32))
        record["map"]["npy"] = {"file": written[-1].name}
    written.append(base.with_name(f"{base.name}.json"))
    write_json(written[-1], record)
    return written


def run_prediction(
    engine: Any,
    paths: list[Path],
    *,
    folder: Path | None = None,
    kind: str = "png",
    show: Callable[[Prediction], None] = lambda prediction: None,
    **parts: Any,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Predict all files, write outputs when `folder` is given, and collect records and failures.

    `parts` are handed to `predict_files`: pixel_format, roi, ignore.
    """
    names = output_names(paths)
    if folder is not None:
        make_folder(folder)
    records, failures = [], []
    for prediction in predict_files(engine, paths, **parts):
        if prediction.error is not None:
            failures.append({"image": str(prediction.path), "error": prediction.error})
        else:
            records.append(as_record(prediction))
            if folder is not None:
                files = write_outputs(prediction, folder, names[prediction.path], kind)
                records[-1]["files"] = [str(file) for file in files]
        show(prediction)
    return records, failures


def make_folder(folder: Path) -> None:
    """Create a folder and its parents.

    Raises:
        AdfastError: it cannot be created, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AdfastError(
            f"cannot create the folder {folder}: {error.strerror or error}; name another one"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON, atomically."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.write("\n")
