"""A plan's section "calibration": the images it comes from, and what the engine makes of them.

`adfast build` writes it for a new plan, `adfast calibrate` anew for one that stands on its line;
both by `measure`, so that whatever one records, the other does. The arithmetic is `calibrate`'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from adfast.calibrate import (
    DEFAULT_FPR,
    LEVEL,
    MapStatistics,
    best_f1,
    choose_rate,
    describe,
    judge,
    threshold,
)
from adfast.errors import ArgumentError, DataError
from adfast.images import check_images, list_images, read_image
from adfast.progress import Track, silent

# A threshold of the largest F1 that calls more good images anomalous is warned about.
F1_FPR_WARNING = 0.1
# Of the good scores, which drift on the line is told from.
QUANTILES = 101

Log = Callable[[str], None]


@dataclass
class Images:
    """The images that a threshold comes from.

    Attributes:
        images: good ones; may be none.
        source: where they are from.
        max_fpr: the rate the threshold is set for; None: by F1, or no threshold.
        labelled: (image, is it defective); empty: the threshold comes from `images`.
        labelled_source: where those are from.
        pixel_format: of all of them, see `adfast.images.read_image`.
    """

    images: list[Path]
    source: str
    max_fpr: float | None = None
    labelled: list[tuple[Path, bool]] = field(default_factory=list)
    labelled_source: str = ""
    pixel_format: str = ""


def images_of(
    good: str | os.PathLike[str] | tuple[list[Path], str] | None,
    labelled: str | os.PathLike[str] | None,
    max_fpr: float | None,
    say: Log,
    pixel_format: str = "",
) -> Images:
    """Find the images for a threshold and settle its rate, before any work is done.

    Args:
        good: folder of good images, or a list of them and where they are from; None: the good ones
            of `labelled`, or none.
        labelled: folder of labelled images, see `labelled_images`.
        max_fpr: the rate that is asked for, see `calibrate.choose_rate`.
        say: takes lines for people.
        pixel_format: of files of 16 bits a sample, see `adfast.images.read_image`.

    Raises:
        ArgumentError: the rate makes no sense, or there are no images of the pixel format.
        DataError, FrameError: images are missing, unreadable, or too few for the rate.
    """
    pairs, pairs_source = [], ""
    if labelled is not None:
        pairs = labelled_images(labelled)
        pairs_source = f"folder {Path(labelled).resolve().name}"
    if isinstance(good, tuple):
        found = Images(*good)
    elif good is not None:
        found = Images(list_images([good]), f"folder {Path(good).resolve().name}")
    elif pairs:
        found = Images([path for path, bad in pairs if not bad], f"good ones of {pairs_source}")
    else:
        found = Images([], "none")
    found.labelled, found.labelled_source = pairs, pairs_source
    if pixel_format and not found.images:
        raise ArgumentError(
            f"[calibration] the pixel format is {pixel_format}, and there are no images: name a "
            "folder of them"
        )
    found.pixel_format = pixel_format
    paths = [*found.images, *(path for path, _ in pairs)]
    check_images(paths, "images for the threshold", pixel_format)
    count = sum(not bad for _, bad in pairs) if pairs else len(found.images)
    if max_fpr is not None or (found.images and not pairs):
        # Without images a rate that makes no sense is refused all the same.
        found.max_fpr = choose_rate(count if count else 10**9, max_fpr)
    if max_fpr is None and found.max_fpr is not None and found.max_fpr > DEFAULT_FPR:
        say(
            f"false-positive rate {found.max_fpr:.4g}: the smallest that {count} good images can "
            f"show ({round(1 / DEFAULT_FPR)} or more would show {DEFAULT_FPR:g}, the default)"
        )
    return found


def labelled_images(folder: str | os.PathLike[str]) -> list[tuple[Path, bool]]:
    """List labelled images, (path, is it defective), of a folder with good/ and <defect>/.

    Args:
        folder: it, or one whose sub-folder test/ is it.

    Raises:
        DataError: there are no good or no defective images.
    """
    root = Path(folder)
    root = root / "test" if (root / "test").is_dir() else root
    classes = sorted(p for p in root.glob("*") if p.is_dir() and not p.name.startswith("."))
    found = [(path, part.name != "good") for part in classes for path in list_images([part])]
    defective = sum(bad for _, bad in found)
    if not defective or defective == len(found):
        raise DataError(
            f"{folder}: {len(found) - defective} good and {defective} defective images; a "
            "threshold from labelled images needs both, in good/ and in <defect>/ (or test/good, "
            "...)"
        )
    return found


def measure(
    engine: Any,
    good: Images,
    *,
    alpha_scale: Sequence[float] = (),
    say: Log = lambda text: None,
    track: Track = silent,
    parts: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Make the plan's section "calibration".

    Args:
        engine: an `adfast.Engine` of the plan.
        good: the images; without good ones the table has no threshold.
        alpha_scale: the model's own scales of its maps, which go into the table as they are.
        say: takes lines for people.
        track: shows how far it is.
        parts: what `Engine.predict` is told besides every image: roi, ignore.
    """
    table: dict[str, Any] = {
        "images": len(good.images),
        "source": good.source,
        "precision": engine.info["precision"],
    }
    if alpha_scale:
        table["alpha_scale"] = [float(value) for value in alpha_scale]
    if good.pixel_format:
        table["pixel_format"] = good.pixel_format
    if not good.images:
        say("not calibrated: no good images (--calibrate DIR); the plan gives scores, no verdicts")
        return table
    say(f"calibrating on {len(good.images)} images ({good.source})")

    def predict(path: Path) -> Any:
        frame = read_image(path, good.pixel_format)
        return engine.predict(frame, pixel_format=good.pixel_format, **parts)

    scores: dict[Path, float] = {}
    maps = MapStatistics(len(good.images))
    whole = engine.info["tile"] is None  # or no image was larger than a tile
    for path in track(good.images, "calibration"):
        result = predict(path)
        scores[path] = result.score
        if result.network_map is None:
            maps.add(result.map[result.inspected.slices])
            whole = True
        else:
            maps.add(result.network_map)
    if not whole:
        say(
            "warning: no image for the threshold is larger than a tile: it is for single tiles, "
            "and a frame of many is called anomalous more often; give whole frames"
        )
    values = np.array(list(scores.values()))
    table |= {
        "score.min": float(values.min()),
        "score.mean": float(values.mean()),
        "score.std": float(values.std()),
        "score.max": float(values.max()),
        "score.quantiles": np.quantile(values, np.linspace(0, 1, QUANTILES)).tolist(),
        "map.mean": maps.mean(),
        "map.max": maps.quantile(0.999),
    }
    if good.labelled:
        say(f"threshold from {len(good.labelled)} labelled images ({good.labelled_source})")
        for path, _ in track(good.labelled, "labelled images"):
            if path not in scores:
                scores[path] = predict(path).score
        labels = np.array([bad for _, bad in good.labelled])
        values = np.array([scores[path] for path, _ in good.labelled])
    else:
        labels = np.zeros(values.size, bool)
    if good.max_fpr is None:
        limit, rule = best_f1(labels, values), "largest F1 on labelled images"
    else:
        limit = threshold(values[~labels], good.max_fpr)
        rule = "false-positive rate on good images"
        table["max_fpr"] = float(good.max_fpr)
    table |= {
        "threshold": limit.value,
        "rule": rule,
        "expected_fpr": limit.expected_fpr,
        "fpr.low": limit.fpr[0],
        "fpr.high": limit.fpr[1],
        "level": LEVEL,
    }
    table |= {
        f"threshold.{end}": float(value)
        for end, value in (("low", limit.low), ("high", limit.high))
        if value is not None
    }
    if good.labelled:
        seen = asdict(judge(labels, values, limit.value))
        table |= {"labelled.source": good.labelled_source}
        table |= {f"labelled.{name}": value for name, value in seen.items()}
    for line in describe(table):
        say("  " + line)
    if good.max_fpr is None and limit.expected_fpr > F1_FPR_WARNING:
        say(
            f"warning: at the largest F1, {100 * limit.expected_fpr:.0f} % of the labelled good "
            "images are called anomalous (F1 counts misses against the share of defective images, "
            f"here {100 * labels.mean():.0f} %); --max-fpr RATE bounds them"
        )
    return table
