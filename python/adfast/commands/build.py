"""adfast build: compile, compare, calibrate and write a plan."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from adfast.progress import bar, silent


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
    parser.add_argument(
        "--passes-off",
        default="",
        metavar="NAME,...",
        help="compiler passes to leave out, to find one that is wrong",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from adfast.build import build

    def log(text: str) -> None:
        if not args.quiet or text.startswith("warning"):
            print(text, file=sys.stderr)

    build(
        args.source,
        args.output,
        precision=args.precision,
        calibrate=args.calibrate,
        max_fpr=args.max_fpr,
        threshold_from=args.threshold_from,
        passes_off=[name.strip() for name in args.passes_off.split(",") if name.strip()],
        log=log,
        track=silent if args.quiet else bar,
    )
    return 0
