"""adfast cifar10: one-class data sets from CIFAR-10's published binary files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EPILOG = """\
FOLDER is CIFAR-10's "binary version", unpacked: data_batch_1.bin to data_batch_5.bin,
test_batch.bin and batches.meta.txt. Nothing is downloaded.

The protocol of ADTR: trained on the training images of one class; tested on that class's test
images and as many of other classes, drawn at random. Its figure is the mean image AUROC of all
ten classes.

example:
  adfast cifar10 cifar-10-batches-bin --normal cat --out data/cat
  adfast train adtr --cifar10 --data data/cat --out runs/cat

all ten classes:
  adfast cifar10 cifar-10-batches-bin --normal all --out data/cifar10
  adfast train adtr --cifar10 --data data/cifar10 --out runs/cifar10
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="folder of CIFAR-10's binary version")
    add(
        "--normal",
        required=True,
        metavar="CLASS",
        help="the good class by name, or all: a data set for each, in folders of DIR",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder to make, in MVTec's layout")
    add(
        "--anomalies",
        choices=["equal", "all"],
        default="equal",
        help="test with as many images of other classes as of this one, as the paper, or with the "
        "whole test batch. default: equal",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the draw. default: 0")


def run(args: argparse.Namespace) -> int:
    """Run `adfast cifar10`; returns the exit status."""
    from adfast.data import cifar
    from adfast.progress import bar

    names, training, test = cifar.read(args.folder)
    for batch in (*training, test):
        if len(batch.labels) != cifar.PUBLISHED:
            print(
                f"note: {batch.name} has {len(batch.labels)} images, the published one "
                f"{cifar.PUBLISHED}: figures are not comparable",
                file=sys.stderr,
            )
    every = args.normal == "all"
    for normal in names if every else [args.normal]:
        out = args.out / normal if every else args.out
        counts = cifar.write_one_class(
            names,
            training,
            test,
            normal,
            out,
            anomalies=args.anomalies,
            seed=args.seed,
            track=bar,
        )
        good = counts.pop("train/good"), counts.pop("test/good")
        print(
            f"{out}: {good[0]} images to train on, {good[1]} good and {sum(counts.values())} "
            f"anomalous ones of {len(counts)} classes to test with"
        )
    return 0
