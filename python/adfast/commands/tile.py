"""adfast tile: cut a data set of large images into one of tiles."""

from __future__ import annotations

import argparse
from pathlib import Path

from adfast.commands.build import tile_size
from adfast.commands.formats import add_pixel_format_argument

EPILOG = """\
DATA is in the layout of MVTec AD: train/good and, perhaps, test/good, test/<defect> and
ground_truth/<defect>/<name>_mask.png. A tile of a defective image goes to test/<defect> if its mask
marks a pixel in it, else to test/good.

from large images to a plan that inspects large frames:
  adfast tile boards/ --tile 512 --out boards-tiles/
  adfast train gtrans --data boards-tiles/ --out runs/boards
  adfast build runs/boards -o boards.plan --tile 512 --calibrate boards/train/good

The images given to --calibrate are whole frames, best ones that were not trained on: a frame's
score is the highest of its tiles, which one tile's threshold does not know.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = f"{parser.epilog}\n{EPILOG}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder of whole images, in MVTec's layout")
    add("--tile", type=tile_size, required=True, metavar="HxW", help="size in pixels, e.g. 512x640")
    add(
        "--tile-overlap",
        type=int,
        metavar="N",
        help="pixels that neighbours share at least. default: an eighth of the shorter side",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder to make, in the same layout")
    add_pixel_format_argument(
        parser,
        "The tiles are PNG files of 16 bits then, values as they are: name the format again where "
        "you train on them. Default: images of 8 bits",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from adfast.build import tile_fields
    from adfast.data.tiles import write_tiles
    from adfast.progress import bar

    overlap = tile_fields(args.tile, args.tile_overlap)["tile.overlap"]
    counts = write_tiles(args.data, args.out, args.tile, overlap, bar, args.pixel_format)
    listed = ", ".join(f"{count} in {folder}" for folder, count in sorted(counts.items()))
    print(f"{args.out}: {sum(counts.values())} tiles: {listed}")
    return 0
