"""CIFAR-10 as a one-class data set, from its published binary files.

    FOLDER/batches.meta.txt     the names of the ten classes, one a line
    FOLDER/data_batch_1.bin     ... to data_batch_5.bin: training images
    FOLDER/test_batch.bin       test images

A record is 3073 bytes: the label, then 32 x 32 pixels of red, of green and of blue, row by row. A
published file has 10000 records; others are taken too, so that a part can be tried.

The protocol of ADTR (You et al., section 4.1): train on the training images of one class; test on
that class's test images and as many others, drawn at random from the rest of the test batch.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adfast.errors import AdfastError, DataError
from adfast.images import encode_png
from adfast.progress import Track, silent

SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE
PUBLISHED = 10_000  # records of a file
TRAINING = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = "test_batch.bin"
NAMES = "batches.meta.txt"


@dataclass(frozen=True)
class Batch:
    """The records of a file.

    Attributes:
        name: of the file, without ".bin".
        labels: uint8 [N].
        images: uint8 [N, 32, 32, 3], RGB.
    """

    name: str
    labels: np.ndarray
    images: np.ndarray


def read_names(folder: str | Path) -> list[str]:
    """Read the names of the classes; a DataError says what is wrong with the file."""
    path = Path(folder) / NAMES
    try:
        names = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read {path}: {error}; expected the folder of CIFAR-10's binary version, "
            f"with {NAMES}, {TRAINING[0]} ... and {TEST}"
        ) from error
    bad = [name for name in names if not name.replace("_", "").isalnum() or name == "good"]
    if len(names) < 2 or len(set(names)) < len(names) or bad:
        raise DataError(f"{path} has {names}; expected the names of the classes, one a line")
    return names


def read_batch(path: str | Path, classes: int) -> Batch:
    """Read a file of records.

    Raises:
        DataError: the file is missing or no whole number of records, or a label is none of the
            `classes`.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if not data or len(data) % RECORD:
        raise DataError(
            f"{path} has {len(data)} bytes, which is not a whole number of records of {RECORD} "
            f"({PUBLISHED * RECORD} as published): truncated, or not CIFAR-10's binary version"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
    labels = records[:, 0]
    if labels.max() >= classes:
        at = int(np.argmax(labels >= classes))
        raise DataError(
            f"{path}: record {at} has the label {labels[at]}, expected 0 to {classes - 1}: damaged,"
            " or not CIFAR-10's binary version"
        )
    images = records[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Batch(path.stem, labels, images)


def read(folder: str | Path) -> tuple[list[str], list[Batch], Batch]:
    """Read the names of the classes, the training files and the test file.

    Raises:
        DataError: files are missing (all are named), or one is damaged.
    """
    folder = Path(folder)
    names = read_names(folder)
    missing = [name for name in (*TRAINING, TEST) if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder} lacks {', '.join(missing)}; expected CIFAR-10's binary version, whole"
        )
    training = [read_batch(folder / name, len(names)) for name in TRAINING]
    return names, training, read_batch(folder / TEST, len(names))


def write_one_class(
    names: Sequence[str],
    training: Sequence[Batch],
    test: Batch,
    normal: str,
    out: str | Path,
    *,
    anomalies: str = "equal",
    seed: int = 0,
    track: Track = silent,
) -> dict[str, int]:
    """Write the data set of one class in the MVTec layout, whole or not at all.

    Args:
        names: see `read`.
        training: see `read`.
        test: see `read`.
        normal: the class that is good.
        out: the folder to make: train/good, test/good and test/<class>.
        anomalies: "equal": as many images of other classes as of this one, drawn at random (the
            paper's protocol); "all": the whole test batch.
        seed: of the draw.
        track: wraps the images, to show progress: track(items, what).

    Returns:
        How many images each folder got, by its name.

    Raises:
        DataError: no such class, or there is no image of it to train on, or none to test with.
        AdfastError: the folder exists and is not empty, or cannot be written.
    """
    out = Path(out)
    if normal not in names:
        raise DataError(f"class is {normal!r}; choose one of {', '.join(names)}")
    label = names.index(normal)
    todo = [
        (f"train/good/{batch.name}_{i:05d}.png", batch.images[i])
        for batch in training
        for i in np.flatnonzero(batch.labels == label)
    ]
    good = np.flatnonzero(test.labels == label)
    others = np.flatnonzero(test.labels != label)
    if len(todo) < 2 or not len(good) or not len(others):
        raise DataError(
            f"class {normal}: {len(todo)} training images, {len(good)} test images and "
            f"{len(others)} of other classes; expected at least 2, 1 and 1"
        )
    if anomalies == "equal":
        drawn = random.Random(seed).sample(others.tolist(), min(len(good), len(others)))
        others = np.array(sorted(drawn))
    todo += [(f"test/good/{i:05d}.png", test.images[i]) for i in good]
    todo += [(f"test/{names[test.labels[i]]}/{i:05d}.png", test.images[i]) for i in others]
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise AdfastError(f"{out} exists already; choose another --out, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            for name, pixels in track(todo, normal):
                path = scratch / "set" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_png(pixels))
            os.replace(scratch / "set", out)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise AdfastError(f"cannot write {out}: {error.strerror or error}") from error
    return dict(Counter(name.rpartition("/")[0] for name, _ in todo))
