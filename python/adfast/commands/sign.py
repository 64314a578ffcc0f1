"""adfast sign: sign a plan."""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        f"{parser.epilog}\n\nThe signature ends the file and is over every byte of it. "
        "docs/plan-format.md says what it\nprotects from and what not."
    )
    parser.add_argument("plan", type=Path, help="a plan file; a signature it has is replaced")
    parser.add_argument(
        "--key", type=Path, required=True, metavar="PEM", help="the private key, of adfast keygen"
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="the signed plan (default: the plan itself)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from adfast.signing import sign

    def password() -> bytes:
        return getpass.getpass(f"password of {args.key}: ").encode()

    public = sign(args.plan, args.key, args.output, password=password)
    print(f"{args.output or args.plan}: signed with key {public.hex()}")
    return 0
