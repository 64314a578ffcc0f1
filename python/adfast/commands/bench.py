"""adfast bench: measure latency by stage, in percentiles, and the single steps."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from adfast import benchmark, stream_benchmark
from adfast.commands.formats import add_frame_arguments, given_frame
from adfast.commands.selftest import add_engine_arguments, load_engine
from adfast.errors import ArgumentError
from adfast.files import atomic_write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("plan", type=Path, help="a plan file, from adfast build")
    add_frame_arguments(parser)
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
    group = parser.add_argument_group("a stream")
    group.add_argument(
        "--stream",
        action="store_true",
        help="measure a stream instead: cameras submit frames at their rate; latency from "
        "submitting to the result, and what was dropped",
    )
    group.add_argument("--cameras", type=int, default=1, metavar="N", help="default 1")
    group.add_argument(
        "--fps",
        type=float,
        default=25.0,
        metavar="F",
        help="frames a second of each camera; 0: as fast as it can, with --policy block "
        "(default 25)",
    )
    group.add_argument(
        "--policy",
        choices=("block", "drop_oldest", "drop_newest", "error"),
        default="drop_oldest",
        help="what becomes of a frame that comes when the queue is full (default drop_oldest)",
    )
    group.add_argument(
        "--capacity", type=int, default=4, metavar="N", help="frames that wait at most (default 4)"
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
    frame = given_frame(args)
    if frame is None:
        frame = benchmark.sample_frame(*engine.info["resize"])
    if args.stream:
        return _stream(args, engine, frame)
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


def _stream(args: argparse.Namespace, engine: Any, frame: np.ndarray) -> int:
    result = stream_benchmark.measure_stream(
        engine,
        frame,
        cameras=args.cameras,
        fps=args.fps,
        policy=args.policy,
        capacity=args.capacity,
        seconds=args.seconds,
    )
    if args.json:
        print(json.dumps(result, indent=1, allow_nan=False))
    else:
        print("\n".join(stream_benchmark.lines(result)))
    return 0
