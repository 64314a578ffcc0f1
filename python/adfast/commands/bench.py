"""adfast bench: measure latency by stage, in percentiles."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from adfast import benchmark
from adfast.commands.selftest import add_engine_arguments, load_engine
from adfast.images import read_image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("plan", type=Path, help="a plan file, from adfast build")
    parser.add_argument(
        "--image",
        type=Path,
        metavar="FILE",
        help="the frame to predict; without it a made-up one of the size the plan resizes to",
    )
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="frames per call (default 1)"
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="measuring time (default 5)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=0,
        metavar="N",
        help="also list the N longest steps of one frame",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document instead of a table"
    )
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    engine = load_engine(args)
    if args.image is not None:
        frame = read_image(args.image)
    else:
        frame = benchmark.sample_frame(*engine.info["resize"])
    result = benchmark.measure(engine, frame, batch=args.batch, seconds=args.seconds)
    if args.steps > 0:
        steps = sorted(engine.profile(frame), key=lambda step: -step["ms"])
        result["steps"] = steps[: args.steps]
    if args.json:
        print(json.dumps(result, indent=1, allow_nan=False))
    else:
        print("\n".join(benchmark.lines(result)))
        for step in result.get("steps", ()):
            print(f"{step['ms']:9.3f} ms  {step['op']:<20} {step['kernel']:<24} {step['name']}")
    return 0
