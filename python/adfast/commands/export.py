"""adfast export: from a run folder to an ONNX file."""

from __future__ import annotations

import argparse

EXAMPLE = """\
The file runs in ONNX Runtime as it is. It calls functions of the domain "adfast" whose bodies
travel in it; onnx.inliner.inline_local_functions makes them plain operators for other runtimes.

example:
  adfast export runs/parts -o parts.onnx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `adfast export`."""
    parser.description = "Export the best model of a training run to ONNX (opset 18)."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", metavar="RUN", help="folder written by adfast train --out")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the .onnx to write")


def run(args: argparse.Namespace) -> int:
    """Run `adfast export`; returns the exit status."""
    from adfast.errors import AdfastError

    try:
        from adfast.export import export_onnx
        from adfast.progress import bar

        path = export_onnx(args.run, args.output, track=bar)
    except ImportError as error:
        raise AdfastError(f'export needs {error.name}; pip install "adfast[train]"') from error
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    return 0
