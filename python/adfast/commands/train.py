"""adfast train: from a folder of good images to a run folder."""

from __future__ import annotations

import argparse
import os
import sys

EXAMPLE = """\
DATA is in the MVTec layout: DATA/train/good/*.png (only these are used here), DATA/test/...

example:
  adfast train gtrans --data parts/ --backbone resnet18 --weights resnet18.pth --out runs/parts
  adfast train --out runs/parts --resume          # after a kill or Ctrl-C, same settings
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `adfast train`."""
    parser.description = "Train a model on the good images of a folder."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("model", nargs="?", default="gtrans", choices=["gtrans"], help="default: gtrans")
    add("--data", metavar="DIR", help="folder with train/good")
    add("--out", metavar="RUN", required=True, help="run folder to write")
    add("--list", metavar="FILE", help="train on these images of DATA only: one path per line")
    add(
        "--backbone",
        default="resnet34",
        choices=["resnet18", "resnet34", "wide_resnet50_2"],
        help="default: resnet34",
    )
    add(
        "--weights",
        metavar="FILE|hub|none",
        default="hub",
        help="ImageNet weights of the backbone: a .safetensors, .npz or .pth file, hub (download), "
        "or none (random, for trying out). default: hub",
    )
    add("--epochs", type=int, metavar="N", help="default: 300")
    add("--size", type=int, default=224, metavar="N", help="side of the crop. default: 224")
    add(
        "--resize",
        type=int,
        metavar="N",
        help="side every image is stretched to before the crop. default: 256/224 of --size",
    )
    add("--batch", type=int, default=32, metavar="N", help="images per step. default: 32")
    add("--lr", type=float, default=1e-3, help="initial learning rate. default: 0.001")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add("--fusion", default="P6", choices=[f"P{i}" for i in range(1, 7)], help="default: P6")
    add(
        "--mapper-source",
        default="decoder",
        choices=["decoder", "encoder"],
        help="tokens the mapper reads. default: decoder",
    )
    add(
        "--precision",
        default="auto",
        choices=["auto", "bf16", "f32"],
        help="auto: bf16 where the processor computes in it. default: auto",
    )
    add(
        "--cache",
        default="auto",
        choices=["auto", "off", "images", "features"],
        help="what to keep in memory; features spares the frozen backbone in every epoch. "
        "auto: as much as fits. default: auto",
    )
    add("--device", default="auto", choices=["auto", "cpu", "cuda"], help="default: auto")
    add(
        "--resume",
        action="store_true",
        help="go on with the training in RUN, with its settings (only --epochs may be changed)",
    )


def run(args: argparse.Namespace) -> int:
    """Run `adfast train`; returns the exit status (130 after Ctrl-C)."""
    from adfast.errors import AdfastError

    try:
        from adfast.data.folder import resize_for
        from adfast.training import TrainSettings, train
        from adfast.training.reporting import RichReporter

        report = RichReporter()
    except ImportError as error:
        raise AdfastError(f'training needs {error.name}; pip install "adfast[train]"') from error
    if args.resume:
        settings = _settings_of(args.out, args.epochs)
    elif args.data is None:
        raise AdfastError("[train] --data is missing: the folder with train/good")
    else:
        side = args.resize or resize_for(args.size)
        settings = TrainSettings(
            model=args.model,
            config={
                "backbone": args.backbone,
                "fusion": args.fusion,
                "mapper_source": args.mapper_source,
                "resize": [side, side],
                "crop": [args.size, args.size],
            },
            # Absolute, so that --resume works from any folder.
            data=os.path.abspath(args.data),
            list_file=args.list and os.path.abspath(args.list),
            weights=args.weights
            if args.weights in ("hub", "none")
            else os.path.abspath(args.weights),
            epochs=300 if args.epochs is None else args.epochs,
            batch=args.batch,
            lr=args.lr,
            seed=args.seed,
            precision=args.precision,
            cache=args.cache,
            device=args.device,
        )
    try:
        info = train(settings, args.out, resume=args.resume, report=report)
    except KeyboardInterrupt:
        saved = os.path.isfile(os.path.join(args.out, "last.safetensors"))
        hint = f"go on with: adfast train --out {args.out} --resume"
        print(f"interrupted; {hint if saved else 'nothing was saved yet'}", file=sys.stderr)
        return 130
    finally:
        report.close()
    best = info["best"]
    print(
        f"{args.out}: best epoch {best['epoch']}, validation loss {best['validation_loss']:.5g}; "
        f"next: adfast build {args.out} -o model.plan"
    )
    return 0


def _settings_of(out: str, epochs: int | None):
    """Return the settings a run was begun with, with another number of epochs if given."""
    import dataclasses

    from adfast.models import read_run_info
    from adfast.training import TrainSettings

    settings = TrainSettings(**read_run_info(out)["training"])
    return settings if epochs is None else dataclasses.replace(settings, epochs=epochs)
