"""adfast keygen: make the keys that plans are signed and checked with."""

from __future__ import annotations

import argparse
from pathlib import Path

_EPILOG = """
The private key signs: keep it where plans are made, not on the line. The public key checks: give
it to every machine that loads plans, by another way than the plans. Who has both the plan and the
key that checks it can replace both.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = f"{parser.epilog}\n{_EPILOG}"
    parser.add_argument(
        "key",
        type=Path,
        help="the file of the private key, KEY.pem; the public one becomes KEY.pub.pem beside it",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from adfast.signing import make_key

    public_path, raw = make_key(args.key)
    print(f"{args.key}: private key, readable by you alone")
    print(f"{public_path}: public key, {raw.hex()}; in C and C++:")
    numbers = [f"0x{byte:02x}" for byte in raw]
    rows = [", ".join(numbers[i : i + 8]) for i in range(0, 32, 8)]
    print("static const uint8_t public_key[32] = {\n    " + ",\n    ".join(rows) + "};")
    return 0
