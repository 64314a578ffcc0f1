"""adfast verify: check who signed a plan, and that nothing changed since."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("plan", type=Path, help="a plan file")
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="PEM",
        help="the public key of who should have signed it",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns 1 for a plan that the key did not sign."""
    from adfast import _core
    from adfast.signing import check_of, public_key_bytes

    _core.Plan(os.fspath(args.plan), check_of(args.key, str(args.plan)))
    print(f"{args.plan}: signed with key {public_key_bytes(args.key).hex()}, and unaltered since")
    return 0
