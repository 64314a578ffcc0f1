"""adfast train: from a folder of good images to a run folder."""

from __future__ import annotations

import argparse
import os
import sys

from adfast.models.recipes import RECIPES, Recipe

EXAMPLE = """\
DATA is in the MVTec layout: DATA/train/good/*.png (only these are used here), DATA/test/...
Defaults are the paper's; "adfast train MODEL --help" shows a model's.

example:
  adfast train gtrans --data parts/ --backbone resnet18 --weights resnet18.pth --out runs/parts
  adfast train adtr --data parts/ --out runs/adtr
  adfast train --out runs/parts --resume          # after a kill or Ctrl-C, same settings
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `adfast train`: a model, and its own."""
    parser.description = "Train a model on the good images of a folder."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_common(parser, "")
    models = parser.add_subparsers(dest="model", metavar="MODEL", title="models")
    for name, recipe in RECIPES.items():
        _add_model(models.add_parser(name, help=recipe.paper), recipe)


def _add_common(parser: argparse.ArgumentParser, epochs: str) -> None:
    # Without a default: the model's parser would put it over what stood before the model's name.
    add = parser.add_argument
    nothing = {"default": argparse.SUPPRESS}
    add("--out", metavar="RUN", help="run folder to write", **nothing)
    add("--epochs", type=int, metavar="N", help=f"passes over the images{epochs}", **nothing)
    add(
        "--resume",
        action="store_true",
        help="go on with the training in RUN, with its settings (only --epochs may be changed)",
        **nothing,
    )


def _add_model(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    parser.description = f"Train the model of: {recipe.paper}."
    parser.epilog = (
        f"The paper's training: {recipe.optimizer}, learning rate {recipe.lr:g}, "
        f"{_schedule(recipe)}, weight decay {recipe.weight_decay:g}, {recipe.epochs} epochs of "
        f"batches of {recipe.batch}."
    )
    _add_common(parser, f". default: {recipe.epochs}")
    add = parser.add_argument
    add("--data", metavar="DIR", help="folder with train/good")
    add("--list", metavar="FILE", help="train on these images of DATA only: one path per line")
    place = "FILE|hub|none" if recipe.size else "RUN"
    if recipe.default_weights == "none":
        place = "none"
    add("--weights", metavar=place, default=recipe.default_weights, help=recipe.weights)
    quick = ", ".join(f"--{k.replace('_', '-')} {v}" for k, v in recipe.quick.items())
    add("--quick", action="store_true", help=f"for small machines: {quick}, unless given")
    # What the recipe knows is None until it is resolved: typed, else --quick's, else the paper's.
    if recipe.size:
        _add_sizes(parser, recipe)
    for option in recipe.options:
        add(
            f"--{option.name.replace('_', '-')}",
            type=None if option.choices else _reader(option.type),
            metavar=option.metavar,
            choices=option.choices,
            help=f"{option.help}. default: {option.default}",
        )
    add("--batch", type=int, metavar="N", help=f"images per step. default: {recipe.batch}")
    add("--lr", type=float, help=f"initial learning rate. default: {recipe.lr:g}")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
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


def _add_sizes(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    add = parser.add_argument
    add("--size", type=int, metavar="N", help=f"side of the crop. default: {recipe.size}")
    proportion = "--size"
    if recipe.resize != recipe.size:
        proportion = f"{recipe.resize}/{recipe.size} of --size"
    add(
        "--resize",
        type=int,
        metavar="N",
        help=f"side every image is stretched to before the crop. default: {proportion}",
    )


def _schedule(recipe: Recipe) -> str:
    if recipe.schedule == "exponential":
        return f"falling exponentially to {recipe.lr_decay:g} of it"
    if recipe.schedule == "step":
        dropped = round(recipe.lr_drop * recipe.epochs)
        return f"times {recipe.lr_decay:g} after {dropped} epochs"
    return "constant"


def _reader(read):
    """Let argparse report a word that cannot be read in its own words."""

    def typed(word: str):
        try:
            return read(word)
        except (ValueError, KeyError) as error:
            raise argparse.ArgumentTypeError(f"{word!r} cannot be read") from error

    return typed


def run(args: argparse.Namespace) -> int:
    """Run `adfast train`; returns the exit status (130 after Ctrl-C)."""
    from adfast.errors import AdfastError, ArgumentError

    out, resume = getattr(args, "out", None), getattr(args, "resume", False)
    if out is None:
        raise ArgumentError("[train] --out is missing: the run folder to write")
    try:
        from adfast.training import TrainSettings, train
        from adfast.training.reporting import RichReporter

        report = RichReporter()
    except ImportError as error:
        raise AdfastError(f'training needs {error.name}; pip install "adfast[train]"') from error
    if resume:
        settings = _settings_of(out, getattr(args, "epochs", None))
    elif args.model is None:
        raise ArgumentError(f"[train] the model is missing: one of {', '.join(RECIPES)}")
    elif args.data is None:
        raise ArgumentError("[train] --data is missing: the folder with train/good")
    else:
        settings = TrainSettings(**_settings(args, RECIPES[args.model]))
    try:
        info = train(settings, out, resume=resume, report=report)
    except KeyboardInterrupt:
        saved = os.path.isfile(os.path.join(out, "last.safetensors"))
        hint = f"go on with: adfast train --out {out} --resume"
        print(f"interrupted; {hint if saved else 'nothing was saved yet'}", file=sys.stderr)
        return 130
    finally:
        report.close()
    best = info["best"]
    print(
        f"{out}: best epoch {best['epoch']}, validation loss {best['validation_loss']:.5g}; "
        f"next: adfast build {out} -o model.plan"
    )
    return 0


def _settings(args: argparse.Namespace, recipe: Recipe) -> dict:
    """Return the fields of TrainSettings that were typed or that --quick or the paper say."""
    given = {key: value for key, value in vars(args).items() if value is not None}
    if args.quick:
        given = {**recipe.quick, **given}
    config = {}
    if recipe.size:
        size = given.get("size", recipe.size)
        side = given.get("resize", recipe.resize_for(size))
        config = {"resize": [side, side], "crop": [size, size]}
    for option in recipe.options:
        if option.name in given:
            value = given[option.name]
            # Choices are matched as words, so they are read only here.
            config[option.name] = option.type(value) if option.choices else value
    fields = ("model", "weights", "epochs", "batch", "lr", "seed", "precision", "cache", "device")
    settings = {name: given[name] for name in fields if name in given}
    # Absolute, so that --resume works from any folder.
    if args.weights not in ("hub", "none"):
        settings["weights"] = os.path.abspath(args.weights)
    list_file = args.list and os.path.abspath(args.list)
    return {
        **settings,
        "config": config,
        "data": os.path.abspath(args.data),
        "list_file": list_file,
    }


def _settings_of(out: str, epochs: int | None):
    """Return the settings a run was begun with, with another number of epochs if given."""
    import dataclasses

    from adfast.models import read_run_info
    from adfast.training import TrainSettings

    settings = TrainSettings(**read_run_info(out)["training"])
    return settings if epochs is None else dataclasses.replace(settings, epochs=epochs)
