"""The options --roi and --ignore: which part of every image counts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from adfast.images import read_image
from adfast.result import Box


def add_part_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare --roi and --ignore."""
    parser.add_argument(
        "--roi",
        type=_box,
        metavar="X,Y,W,H",
        help="inspect this part of every image as if it were the whole; the map is 0 elsewhere",
    )
    parser.add_argument(
        "--ignore",
        type=Path,
        metavar="MASK",
        help="an image of the frames' size: where it is not black, nothing counts",
    )


def parts_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what `Engine.predict` is told besides the image."""
    parts: dict[str, Any] = {}
    if args.roi is not None:
        parts["roi"] = args.roi
    if args.ignore is not None:
        mask = read_image(args.ignore)
        parts["ignore"] = (mask if mask.ndim == 2 else mask.any(axis=2)) > 0
    return parts


def _box(text: str) -> Box:
    sides = text.split(",")
    try:
        return Box(*(int(side) for side in sides))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no rectangle; expected X,Y,W,H") from None
