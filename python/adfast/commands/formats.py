"""The option --pixel-format: what the values of image files of 16 bits a sample mean."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from adfast.images import DEEP_FORMATS, read_image, to_uint8

_HELP = (
    "the images are grey PNG, PGM or TIFF files of 16 bits a sample, or NPY files of uint16 (H, "
    "W), saved from a camera of this format (GenICam's names): Mono10 spans 0 to 1023, Mono12 0 to "
    "4095, Mono16 0 to 65535, whatever an image holds. It is never guessed: a 12-bit image read as "
    "Mono16 would be nearly black. Masks have 8 bits as ever"
)


def add_pixel_format_argument(parser: argparse._ActionsContainer, more: str = "") -> None:
    """Declare --pixel-format; `more` ends its help."""
    parser.add_argument(
        "--pixel-format",
        choices=tuple(DEEP_FORMATS),
        default="",
        help=f"{_HELP}. {more or 'Default: images of 8 bits'}",
    )


def add_frame_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --image and its format, for commands that time a frame."""
    parser.add_argument(
        "--image",
        type=Path,
        metavar="FILE",
        help="the frame to run; without it a made-up one of the size the plan resizes to",
    )
    add_pixel_format_argument(parser, "The frame is timed in 8 bits")


def given_frame(args: argparse.Namespace) -> np.ndarray | None:
    """Read what --image names as uint8 [H,W] or [H,W,3]; None without it."""
    if args.image is None:
        return None
    return to_uint8(read_image(args.image, args.pixel_format), args.pixel_format)
