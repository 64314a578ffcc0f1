"""adfast build: compile, compare, calibrate and write a plan."""

from __future__ import annotations

import argparse
from pathlib import Path

from adfast.commands.formats import add_pixel_format_argument
from adfast.errors import ArgumentError
from adfast.plan_file import MAGIC
from adfast.progress import bar, phases, say, silent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source",
        type=Path,
        help="the folder of a training run, or an ONNX file; with --target tensorrt also a plan",
    )
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
    add_pixel_format_argument(
        parser, "Default: that of a run's training images; for an ONNX file, images of 8 bits"
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
    group = parser.add_argument_group("NVIDIA cards")
    group.add_argument(
        "--target",
        choices=("tensorrt",),
        help="put an engine into the plan too, made by TensorRT for the card of this machine: it "
        "runs there by itself, and other machines take the rest of the plan. Of a plan, all else "
        "stays byte for byte, but for a signature, which is dropped",
    )
    group.add_argument(
        "--engine-precision",
        choices=("auto", "f16", "bf16", "int8", "f32"),
        default="auto",
        help="of the engine; auto (default): int8 where the plan is quantised, else f16",
    )
    group.add_argument(
        "--engine-plugins",
        action="store_true",
        help="run halo attention (HaloAE) in adfast's kernel, as a plugin of TensorRT's, instead "
        "of in TensorRT's own layers",
    )
    group.add_argument(
        "--card", type=int, default=0, metavar="N", help="number of the card (default: 0)"
    )
    group.add_argument(
        "--engine-level",
        type=int,
        choices=range(6),
        default=3,
        help="TensorRT's optimisation level: more takes longer and may run faster (default: 3)",
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
    if args.target is None:
        if _is_plan(args.source):
            raise ArgumentError(
                f"[build] {args.source} is a plan already; with --target tensorrt it gets an engine"
            )
        _build(args)
        return 0
    # Refused before the long part.
    from adfast.tensorrt import builder

    builder.import_tensorrt()
    builder.use_card(args.card)
    plan = args.source
    if not _is_plan(plan):
        _build(args)
        plan = args.output
    _add_engine(args, plan)
    return 0


def _is_plan(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:  # a folder, or nothing
        return False


def _build(args: argparse.Namespace) -> None:
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
        pixel_format=args.pixel_format,
        log=say(args.quiet),
        track=silent if args.quiet else bar,
    )


def _add_engine(args: argparse.Namespace, plan: Path) -> None:
    from adfast.tensorrt.target import add_engine

    with phases(args.quiet) as progress:
        add_engine(
            plan,
            args.output,
            precision=None if args.engine_precision == "auto" else args.engine_precision,
            card=args.card,
            level=args.engine_level,
            plugins=args.engine_plugins,
            log=say(args.quiet),
            progress=progress,
        )
