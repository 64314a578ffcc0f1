"""adfast calibrate: set a plan's threshold anew, from images of its line."""

from __future__ import annotations

import argparse
from pathlib import Path

from adfast.commands.formats import add_pixel_format_argument
from adfast.commands.parts import add_part_arguments, parts_of
from adfast.commands.selftest import add_engine_arguments, engine_options
from adfast.progress import bar, say, silent

_EPILOG = """
A threshold holds for the images it was set from: another camera, lamp or batch of material moves
the scores of good parts. Collect good parts on the line, a few hundred where you can (N images can
show a false-positive rate of 1/N and no less), none of them trained on, and calibrate on the
machine of the line, in the precision it runs in. Where the line inspects a part of its frames, give
the same --roi and --ignore here: the plan records them, but each frame is told its own. The network
is not touched. `adfast info` shows the new threshold with its intervals, and under provenance every
calibration before it. A signed plan loses its signature: check the new one, then sign it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = f"{parser.epilog}\n{_EPILOG}"
    parser.add_argument("plan", type=Path, help="a plan file, which stays as it is")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="the new plan; not the old one's name"
    )
    group = parser.add_argument_group("threshold")
    group.add_argument(
        "--good",
        type=Path,
        metavar="DIR",
        help="good images from the line, none of them trained on; needed unless --labelled has "
        "good ones",
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
        "--labelled",
        type=Path,
        metavar="DIR",
        help="labelled images, DIR/good and DIR/<defect> (or DIR/test/...), for the threshold "
        "instead: the one of the largest F1, or with --max-fpr the one that keeps this rate on the "
        "good ones among them. The plan records it; figures on these images are no test afterwards",
    )
    add_part_arguments(parser)
    add_pixel_format_argument(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from adfast.recalibrate import recalibrate

    recalibrate(
        args.plan,
        args.output,
        good=args.good,
        max_fpr=args.max_fpr,
        labelled=args.labelled,
        log=say(args.quiet),
        track=silent if args.quiet else bar,
        parts=parts_of(args),
        pixel_format=args.pixel_format,
        **engine_options(args),
    )
    return 0
