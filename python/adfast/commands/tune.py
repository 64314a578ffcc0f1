"""adfast tune: measure which implementation of each step is the fastest here."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from adfast.commands.formats import add_frame_arguments, given_frame
from adfast.commands.selftest import add_engine_arguments
from adfast.progress import bar
from adfast.tune import tune


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("plan", type=Path, help="a plan file, from adfast build")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="the tactics file to write; --tactics FILE of the other commands, or "
        "adfast.load(plan, tactics=FILE), uses it",
    )
    add_frame_arguments(parser)
    parser.add_argument(
        "--frames",
        type=int,
        default=15,
        metavar="N",
        help="times each implementation runs the frame; the median counts (default 15)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_engine_arguments(parser, cpu_only=True)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    result = tune(
        args.plan,
        args.output,
        precision=None if args.precision == "auto" else args.precision,
        threads=args.threads,
        frame=given_frame(args),
        frames=args.frames,
        track=bar,
    )
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    for step in result["steps"]:
        print(
            f"{step['own_ms']:8.3f} -> {step['ms']:8.3f} ms  {step['name']}: "
            f"{step['own_kernel']} -> {step['kernel']}"
        )
    count = len(result["steps"])
    print(
        f"{count} step{'s' * (count != 1)} told; a frame takes {result['tuned_ms']:.2f} ms instead "
        f"of {result['own_ms']:.2f}"
        if count
        else f"the engine's own choices are the fastest here ({result['own_ms']:.2f} ms a frame)"
    )
    print(f"tactics: {args.output}")
    return 0
