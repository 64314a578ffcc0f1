"""adfast selftest: run a plan's golden frames and compare with what its model answered."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from adfast.overlay import number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("plan", type=Path, help="a plan file, from adfast build")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document instead of lines"
    )
    add_engine_arguments(parser)


PRECISIONS = ("auto", "f32", "bf16", "f16", "int8")


def add_engine_arguments(parser: argparse.ArgumentParser, *, cpu_only: bool = False) -> None:
    """Declare what every command that runs a plan accepts."""
    group = parser.add_argument_group("engine")
    if not cpu_only:
        group.add_argument(
            "--device",
            default="auto",
            metavar="DEVICE",
            help="cpu, cuda, tensorrt, cuda:N, tensorrt:N, or auto (default): the plan's TensorRT "
            "engine where it fits, else an NVIDIA card where one can be used, else the CPU",
        )
    group.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="worker threads; 0 (default) lets the engine choose",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "f32", "bf16", "int8") if cpu_only else PRECISIONS,
        default="auto",
        help="auto (default) takes the plan's; int8 is for plans that were built with it, on the "
        "CPU or by TensorRT; f16 is for cards",
    )
    if not cpu_only:
        group.add_argument(
            "--frames-at-once",
            type=int,
            default=0,
            metavar="N",
            help="frames of a batch or stream in work at once on the CPU, each with its share of "
            "the threads; 0 (default): one for each branch of the network",
        )
        group.add_argument(
            "--tactics", type=Path, metavar="FILE", help="a file of adfast tune for this machine"
        )
        group.add_argument(
            "--public-key",
            type=Path,
            metavar="PEM",
            help="take only a plan that is signed with this key's private one",
        )


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what was asked for with these arguments, as `adfast.load` takes it."""
    return {
        "device": args.device,
        "threads": args.threads,
        "frames_at_once": args.frames_at_once,
        "precision": None if args.precision == "auto" else args.precision,
        "tactics": args.tactics,
        "public_key": args.public_key,
    }


def load_engine(args: argparse.Namespace) -> Any:
    """Load the plan named on the command line."""
    import adfast

    return adfast.load(args.plan, **engine_options(args))


def run(args: argparse.Namespace) -> int:
    """Run the command; returns 1 when a golden frame is outside the tolerance."""
    engine = load_engine(args)
    report = engine.self_test()
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        print("\n".join(lines(report)))
    return 0 if report["passed"] else 1


def lines(report: dict[str, Any]) -> list[str]:
    """Lay a self-test report out as text."""
    tolerance = report["tolerance"]
    out = [
        f"golden frame       score    expected   map error  score error   tolerance {tolerance:.1e}"
    ]
    for index, frame in enumerate(report["frames"]):
        worst = max(frame["map_error"], frame["score_error"])
        out.append(
            f"{index:>12}  {number(frame['score']):>10}  {number(frame['expected_score']):>10}  "
            f"{frame['map_error']:>10.1e}  {frame['score_error']:>11.1e}   "
            + ("ok" if worst <= tolerance else "TOO FAR")
        )
    if report["passed"]:
        out.append(f"passed in {report['precision']}; errors are relative to the map's maximum")
    else:
        out.append(
            f"FAILED in {report['precision']}: this machine does not compute what the trained "
            "model did; try --precision f32, then build the plan again"
        )
    return out
