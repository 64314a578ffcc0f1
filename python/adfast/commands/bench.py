"""adfast bench: measure latency by stage, in percentiles, and the single steps."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from adfast import benchmark
from adfast.commands.selftest import add_engine_arguments, load_engine
from adfast.errors import ArgumentError
from adfast.files import atomic_write
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
        "--profile",
        type=int,
        nargs="?",
        const=20,
        metavar="N",
        help="also time the single steps, and list the N longest (default 20, 0 for all)",
    )
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="write one frame's steps for chrome://tracing or Perfetto",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document instead of a table"
    )
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.profile is not None and args.profile < 0:
        raise ArgumentError(f"bench: --profile is {args.profile}, expected 0 (all) or more")
    engine = load_engine(args)
    if args.image is not None:
        frame = read_image(args.image)
    else:
        frame = benchmark.sample_frame(*engine.info["resize"])
    result = benchmark.measure(engine, frame, batch=args.batch, seconds=args.seconds)
    profile = None
    if args.profile is not None or args.trace is not None:
        profile = benchmark.profile(engine, frame, seconds=args.seconds)
        steps = profile.pop("frame_steps")
    if args.trace is not None:
        with atomic_write(args.trace, "w") as file:
            json.dump(benchmark.chrome_trace(steps), file)
    shown = args.profile is not None
    if args.json:
        document = result | ({"profile": profile} if shown else {})
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        print("\n".join(benchmark.lines(result)))
        if shown:
            print("\n" + "\n".join(benchmark.profile_lines(profile, args.profile)))
    return 0
