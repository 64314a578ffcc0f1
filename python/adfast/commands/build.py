"""adfast build: compile, compare, calibrate and write a plan."""

from __future__ import annotations

import argparse
from pathlib import Path

from adfast.progress import bar, say, silent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("source", type=Path, help="the folder of a training run, or an ONNX file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the plan file to write")
    parser.add_argument(
        "--precision",
        choices=("auto", "f32", "bf16", "int8"),
        default="auto",
        help="auto (default): the fastest on this machine whose scores rank images as f32 does; "
        "int8 is calibrated on the run's training images, or on those of --calibrate",
    )
    group = parser.add_argument_group("threshold")
    group.add_argument(
        "--calibrate",
        type=Path,
        metavar="DIR",
        help="good images for the threshold, none of them trained on (default: the run's "
        "validation images)",
    )
    group.add_argument(
        "--max-fpr",
        type=float,
        metavar="RATE",
        help="false-positive rate on good images that the threshold is set for: at most this share "
        "of them lies above it. N images can show 1/N and more; a smaller rate is refused "
        "(default: 0.01, or 1/N where that is larger)",
    )
    group.add_argument(
        "--threshold-from",
        type=Path,
        metavar="DIR",
        help="labelled images, DIR/good and DIR/<defect> (or DIR/test/...), for the threshold "
        "instead: the one of the largest F1, or with --max-fpr the one that keeps this rate on the "
        "good ones among them. The plan records it; figures on these images are no test afterwards",
    )
    group = parser.add_argument_group("large frames")
    group.add_argument(
        "--tile",
        type=tile_size,
        metavar="HxW",
        help="inspect frames larger than this many pixels in tiles of this size, as 512x512: each "
        "as the network was trained to see whole images (adfast tile cuts a data set so). Take "
        "--calibrate with whole frames then",
    )
    group.add_argument(
        "--tile-overlap",
        type=int,
        metavar="N",
        help="pixels that neighbouring tiles share at least, where maps are blended (default: an "
        "eighth of a tile's shorter side)",
    )
    parser.add_argument(
        "--passes-off",
        default="",
        metavar="NAME,...",
        help="compiler passes to leave out, to find one that is wrong",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")


def tile_size(text: str) -> tuple[int, int]:
    """Read "512x640", height and width, or "512" for both."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected HxW, as 512x640")
    return int(sides[0]), int(sides[-1])


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from adfast.build import build

    build(
        args.source,
        args.output,
        precision=args.precision,
        calibrate=args.calibrate,
        max_fpr=args.max_fpr,
        threshold_from=args.threshold_from,
        tile=args.tile,
        overlap=args.tile_overlap,
        passes_off=[name.strip() for name in args.passes_off.split(",") if name.strip()],
        log=say(args.quiet),
        track=silent if args.quiet else bar,
    )
    return 0
