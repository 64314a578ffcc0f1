"""adfast export: from a run folder, or for TensorRT from a plan, to an ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path

from adfast.errors import AdfastError, ArgumentError

EXAMPLE = """\
The file runs in ONNX Runtime as it is. It calls functions of the domain "adfast" whose bodies
travel in it; onnx.inliner.inline_local_functions makes them plain operators for other runtimes.

With --target tensorrt the source is a plan, and the file holds its network, from behind the frame
on, in standard operators whose types are written out: what trtexec --stronglyTyped builds from.
adfast build PLAN --target tensorrt does both, on the machine with the card.

example:
  adfast export runs/parts -o parts.onnx
  adfast export parts.plan -o parts.f16.onnx --target tensorrt --precision f16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `adfast export`."""
    parser.description = (
        "Export the best model of a training run to ONNX (opset 18), or a plan's network for "
        "TensorRT (opset 20; in bf16, 22)."
    )
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder written by adfast train --out; for TensorRT a plan, of adfast build",
    )
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the .onnx to write")
    parser.add_argument("--target", choices=("tensorrt",), help="write for TensorRT")
    parser.add_argument(
        "--precision",
        choices=("auto", "f16", "bf16", "int8", "f32"),
        default="auto",
        help="of a network for TensorRT; auto (default): int8 where the plan is quantised, else "
        "f16",
    )


def run(args: argparse.Namespace) -> int:
    """Run `adfast export`; returns the exit status."""
    path = Path(args.output)
    if args.target == "tensorrt":
        from adfast.tensorrt.target import export_network

        asked = None if args.precision == "auto" else args.precision
        what = f", {export_network(args.source, path, asked)}"
    elif args.precision != "auto":
        raise ArgumentError(
            f"[export] --precision {args.precision} is for --target tensorrt; other runtimes take "
            "the model in f32"
        )
    else:
        what = ""
        _export(args.source, path)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB{what}")
    return 0


def _export(run: str, path: Path) -> None:
    try:
        from adfast.export import export_onnx
        from adfast.progress import bar

        export_onnx(run, path, track=bar)
    except ImportError as error:
        raise AdfastError(f'export needs {error.name}; pip install "adfast[train]"') from error
