"""adfast predict: score images; write overlays and maps."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from adfast import predict
from adfast.commands.formats import add_pixel_format_argument
from adfast.commands.parts import add_part_arguments, parts_of
from adfast.commands.selftest import add_engine_arguments, load_engine
from adfast.images import list_images
from adfast.overlay import number

#: Exit code when at least one image could not be read; the others were predicted.
SOME_UNREADABLE = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("plan", type=Path, help="a plan file, from adfast build")
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="images, or folders of images"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="DIR",
        help="write an overlay, the raw map and a JSON file per image here",
    )
    parser.add_argument(
        "--map",
        choices=("png", "npy", "both"),
        default="png",
        help="raw map as 16-bit PNG (scale in the JSON file), float32 NPY, or both (default png)",
    )
    add_part_arguments(parser)
    add_pixel_format_argument(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document instead of lines"
    )
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns 3 when an image could not be read."""
    paths = list_images(args.paths)
    engine = load_engine(args)
    width = min(60, max(len(str(path)) for path in paths))

    def show(prediction: predict.Prediction) -> None:
        if prediction.error is not None:
            print(f"adfast predict: skipped {prediction.error}", file=sys.stderr)
        elif not args.json:
            result = prediction.result
            threshold = "-" if result.threshold is None else number(result.threshold)
            print(
                f"{str(prediction.path):<{width}}  score {number(result.score):<10} "
                f"threshold {threshold:<10} {predict.verdict(result)}",
                flush=True,
            )

    records, failures = predict.run_prediction(
        engine,
        paths,
        folder=args.out,
        kind=args.map,
        show=show,
        pixel_format=args.pixel_format,
        **parts_of(args),
    )
    if args.json:
        document = {"plan": str(args.plan), "results": records, "unreadable": failures}
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        flagged = sum(bool(record["anomalous"]) for record in records)
        judged = any(record["anomalous"] is not None for record in records)
        text = f"{len(records)} images" + (f", {flagged} anomalous" if judged else "")
        if failures:
            text += f", {len(failures)} unreadable"
        print(text + (f"; outputs in {args.out}" if args.out else ""))
    if failures:
        print(
            f"adfast predict: {len(failures)} of {len(paths)} images could not be read (named "
            f"above)",
            file=sys.stderr,
        )
    return SOME_UNREADABLE if failures else 0
