"""Calibrating a plan anew on the images of its line: another threshold, the same network.

What was there before goes into the provenance, so that a plan tells every threshold it ever had and
what it came from. All other sections stay as they are, byte for byte: graph, weights, golden frames
and the parity report say nothing about the threshold. A signature does not survive, as it vouches
for the calibration too.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from adfast._version import __version__
from adfast.calibration import Log, images_of, measure
from adfast.errors import ArgumentError, DataError, PlanError
from adfast.files import check_writable
from adfast.plan_file import json_text, read_sections, table, write_sections
from adfast.progress import Track, silent


def recalibrate(
    plan: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    good: str | os.PathLike[str] | None = None,
    max_fpr: float | None = None,
    labelled: str | os.PathLike[str] | None = None,
    created: str = "",
    log: Log | None = None,
    track: Track = silent,
    parts: Mapping[str, Any] = MappingProxyType({}),
    pixel_format: str = "",
    **options: Any,
) -> dict[str, Any]:
    """Write a copy of a plan with another calibration.

    Args:
        plan: the plan.
        output: the new plan, another file; written last, whole or not at all.
        good: folder of good images from the line, none of them trained on.
        max_fpr: as for `adfast.build.build`.
        labelled: folder of labelled images, as `threshold_from` there.
        created: ISO time for the provenance; now by default.
        log: called with lines for people.
        track: wraps the images of a long step, to show progress: track(items, what).
        parts: what `Engine.predict` is told besides every image: roi, ignore. As the line does.
        pixel_format: of images of 16 bits a sample, see `adfast.images.read_image`.
        options: of `adfast.load`: device, precision and so on. Calibrate as the line runs.

    Returns:
        The new section "calibration".

    Raises:
        PlanError: the plan is damaged.
        ArgumentError: no images are named, or `output` is `plan`.
        DataError, FrameError: images are missing, unreadable or too few for the rate.
        AdfastError: the output cannot be written.
    """
    import adfast
    from adfast import _core

    say = log or (lambda text: None)
    plan, output = Path(plan), Path(output)
    if good is None and labelled is None:
        raise ArgumentError("[calibrate] no images: give good ones with --good DIR")
    check_writable(output)
    if output.exists() and plan.exists() and os.path.samefile(plan, output):
        raise ArgumentError(
            f"[calibrate] {output} is the plan itself; write another file, so that the old one "
            "remains until the new one has proved itself"
        )
    images = images_of(good, labelled, max_fpr, say, pixel_format)
    if not images.images:
        raise DataError(f"{good}: no images; a threshold needs good ones")
    key = options.get("public_key")
    check = None
    if key is not None:
        from adfast.signing import check_of

        check = check_of(key, str(plan))
    read = _core.Plan(os.fspath(plan), check)
    sections, before = read_sections(read), read.contents()
    engine = adfast.load(plan, **options)
    old = before["calibration"]
    scale = old.get("alpha_scale", ())
    new = measure(engine, images, alpha_scale=scale, say=say, track=track, parts=parts)
    provenance = _object(plan, before["provenance"])
    history = provenance.get("calibrations", [])
    if not isinstance(history, list):
        raise PlanError(f"{plan}: 'calibrations' of its provenance is not a list; it was altered")
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    entry = {
        "adfast": __version__,
        "created": created or now,
        "images": len(images.images),
        "source": images.source,
        "labelled_images": len(images.labelled),
        "labelled_source": images.labelled_source,
        "device": engine.info["device"],
        "processor": engine.info["processor"],
        "precision": engine.info["precision"],
        **_told(parts),
        "before": old,
    }
    provenance["calibrations"] = [*history, entry]
    sections["calibration"] = table(new)
    sections["provenance"] = json_text(provenance)
    write_sections(output, sections)
    if "threshold" in old:
        say(f"the threshold was {old['threshold']:.6g} and is {new['threshold']:.6g}")
    if before["signed_by"]:
        say(
            f"warning: {plan} is signed and the new plan is not: its signature was for the old "
            "calibration; sign it with adfast sign"
        )
    say(f"wrote {output}")
    return new


def _told(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Name the parts for the provenance: the rectangle, and how much of a frame is ignored."""
    told: dict[str, Any] = {}
    if parts.get("roi") is not None:
        told["roi"] = [int(side) for side in parts["roi"]]
    if parts.get("ignore") is not None:
        told["ignored_share"] = float(np.mean(parts["ignore"]))
    return told


def _object(plan: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise PlanError(f"{plan}: its provenance is no JSON object; build the plan again")
    return value
