"""adfast train: from a folder of good images to a run folder."""

from __future__ import annotations

import argparse
import os
import sys

from adfast.commands.formats import add_pixel_format_argument
from adfast.models.recipes import RECIPES, Recipe

EXAMPLE = """\
DATA is in the MVTec layout: DATA/train/good/*.png (only these are used here), DATA/test/...
Defaults are the paper's; "adfast train MODEL --help" shows a model's.

example:
  adfast train gtrans --data parts/ --backbone resnet18 --weights resnet18.pth --out runs/parts
  adfast train adtr --data parts/ --out runs/adtr
  adfast train --out runs/parts --resume          # after a kill or Ctrl-C, same settings

all categories of a data set, MVTEC/<category>/train/good, each into its folder of RUNS:
  adfast train adtr --data MVTEC --out RUNS       # again with --resume: what is left

several processes, one per GPU, or on the CPU (every step's images are shared among them, so --batch
stays the whole batch; BatchNorm's statistics are those of the first):
  torchrun --nproc-per-node 2 -m adfast train adtr --data parts/ --out runs/adtr
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `adfast train`: a model, and its own."""
    parser.description = "Train a model on the good images of a folder."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_common(parser)
    models = parser.add_subparsers(dest="model", metavar="MODEL", title="models")
    for name, recipe in RECIPES.items():
        _add_model(models.add_parser(name, help=recipe.paper), recipe)


def _add_common(parser: argparse.ArgumentParser, recipe: Recipe | None = None) -> None:
    # Without a default: the model's parser would put it over what stood before the model's name.
    add = parser.add_argument
    nothing = {"default": argparse.SUPPRESS}
    add("--out", metavar="RUN", help="run folder to write", **nothing)
    epochs, patience = (
        (f". default: {recipe.epochs}", f". default: {recipe.patience}") if recipe else ("", "")
    )
    add("--epochs", type=int, metavar="N", help=f"passes over the images{epochs}", **nothing)
    add(
        "--patience",
        type=int,
        metavar="N",
        help="stop when the validation loss has not improved for N epochs; 0 never does" + patience,
        **nothing,
    )
    add(
        "--resume",
        action="store_true",
        help="go on with the training in RUN, with its settings; those that decide its result may "
        "not be changed, but --epochs and --patience may",
        **nothing,
    )


def _add_model(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    parser.description = f"Train the model of: {recipe.paper}."
    parser.epilog = (
        f"The paper's training: {recipe.optimizer}, learning rate {recipe.lr:g}, "
        f"{_schedule(recipe)}, weight decay {recipe.weight_decay:g}, {recipe.epochs} epochs of "
        f"batches of {recipe.batch}."
    )
    _add_common(parser, recipe)
    add = parser.add_argument
    add("--data", metavar="DIR", help="folder with train/good")
    add("--list", metavar="FILE", help="train on these images of DATA only: one path per line")
    add_pixel_format_argument(
        parser,
        "Kept in RUN/config.json, so that adfast build and eval of RUN need not be told. Default: "
        "images of 8 bits",
    )
    parser.set_defaults(pixel_format=None)  # not typed: a resumed run keeps its own
    if recipe.labelled:
        add(
            "--labelled",
            metavar="DIR",
            help="learn from these anomalies too: DIR/test/<defect>/*.png and, unless --labels "
            "image, DIR/ground_truth/<defect>/<name>_mask.png. They must not be images that are "
            "tested on later",
        )
    place = "FILE|hub|none" if recipe.size else "RUN"
    if recipe.default_weights == "none":
        place = "none"
    add("--weights", metavar=place, help=recipe.weights)
    quick = ", ".join(f"--{_dashed(key)} {_as_typed(value)}" for key, value in recipe.quick.items())
    add("--quick", action="store_true", help=f"for small machines: {quick}, unless given")
    if recipe.cifar10:
        add(
            "--cifar10",
            action="store_true",
            help="the paper's model for CIFAR-10 (adfast cifar10 makes its data sets): --size 32 "
            f"--grid 8 --upsample no --batch {recipe.cifar10['batch']}, unless given",
        )
    # What the recipe knows is None until it is resolved: typed, else --quick's, else the paper's.
    if recipe.size:
        _add_sizes(parser, recipe)
    for option in recipe.options:
        add(
            f"--{_dashed(option.name)}",
            type=None if option.choices else _reader(option.type),
            metavar=option.metavar,
            choices=option.choices,
            help=f"{option.help}. default: {option.default}",
        )
    add("--batch", type=int, metavar="N", help=f"images per step. default: {recipe.batch}")
    add("--lr", type=float, help=f"initial learning rate. default: {recipe.lr:g}")
    add("--seed", type=int, metavar="N", help="default: 0")
    add(
        "--precision",
        choices=["auto", "bf16", "f32"],
        help="auto: bf16 where the processor is faster in it. default: auto",
    )
    add(
        "--cache",
        choices=["auto", "off", "images", "features"],
        help="what to keep in memory; features spares the frozen backbone in every epoch. "
        "auto: as much as fits. default: auto",
    )
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode images that are not kept in memory; 0: the training itself. "
        "default: one per processor, at most 8",
    )
    add(
        "--tensorboard",
        action="store_true",
        default=None,
        help="write losses, rate and images per second of every epoch to RUN/tensorboard",
    )
    add("--device", choices=["auto", "cpu", "cuda"], help="default: auto")


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


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _as_typed(value) -> str:
    """Write a value as a person would type it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


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
        from adfast.training.categories import categories, train_all
        from adfast.training.ranks import rank
        from adfast.training.reporting import Reporter, RichReporter

        report = RichReporter() if rank() == 0 else Reporter()
    except ImportError as error:
        raise AdfastError(f'training needs {error.name}; pip install "adfast[train]"') from error
    full = args.model is not None and args.data is not None
    if resume and not (full and not os.path.isfile(os.path.join(out, "config.json"))):
        settings = _resumed(out, args)
    elif args.model is None:
        raise ArgumentError(f"[train] the model is missing: one of {', '.join(RECIPES)}")
    elif args.data is None:
        raise ArgumentError("[train] --data is missing: the folder with train/good")
    else:
        settings = TrainSettings(**_settings(args, RECIPES[args.model]))
    many = categories(settings.data)
    try:
        if many:
            infos = train_all(settings, out, resume=resume, report=report)
        else:
            infos = {"": train(settings, out, resume=resume, report=report)}
    except AdfastError as error:
        if rank() == 0:
            raise
        raise AdfastError(f"process {rank()}: {error}") from error
    except KeyboardInterrupt:
        if rank() > 0:
            return 130
        saved = os.path.isfile(os.path.join(out, "last.safetensors"))
        hint = (
            f"go on with: adfast train --out {out} --resume" if saved else "nothing was saved yet"
        )
        if many:
            hint = "go on with the same command and --resume"
        print(f"interrupted; {hint}", file=sys.stderr)
        return 130
    finally:
        report.close()
    if rank() > 0:
        return 0
    for name, info in infos.items():
        run = os.path.join(out, name) if name else out
        if isinstance(info, AdfastError):
            print(f"{run}: failed: {info}")
            continue
        best = info["best"]
        print(
            f"{run}: best epoch {best['epoch']}, validation loss {best['validation_loss']:.5g}"
            + ("" if many else f"; next: adfast build {out} -o model.plan")
        )
    failed = sum(isinstance(info, AdfastError) for info in infos.values())
    if many:
        print(f"{len(many) - failed} of {len(many)} categories trained")
    return 1 if failed else 0


# Fields of TrainSettings that are options of the same name.
FIELDS = ("model", "epochs", "patience", "batch", "lr", "seed", "precision", "cache", "device")
FIELDS += ("workers", "tensorboard", "pixel_format")


def _settings(args: argparse.Namespace, recipe: Recipe) -> dict:
    """Return the fields of TrainSettings that were typed or that --quick or the paper say."""
    typed = _typed(args, recipe)
    if recipe.size:
        given = _given(args, recipe)
        size = given.get("size", recipe.size)
        side = given.get("resize", recipe.resize_for(size))
        typed["config"] |= {"resize": [side, side], "crop": [size, size]}
    return typed


def _given(args: argparse.Namespace, recipe: Recipe) -> dict:
    given = {key: value for key, value in vars(args).items() if value is not None}
    presets = recipe.quick if args.quick else {}
    if getattr(args, "cifar10", False):
        presets = {**presets, **recipe.cifar10}
    return {**presets, **given}


def _typed(args: argparse.Namespace, recipe: Recipe) -> dict:
    """Return the fields of TrainSettings that were typed or that --quick says, but for the size."""
    given = _given(args, recipe)
    # Choices are matched as words, so they are read only here.
    config = {
        option.name: option.type(given[option.name]) if option.choices else given[option.name]
        for option in recipe.options
        if option.name in given
    }
    settings = {name: given[name] for name in FIELDS if name in given}
    # Absolute, so that --resume works from any folder.
    for option, name in (
        ("weights", "weights"),
        ("data", "data"),
        ("list", "list_file"),
        ("labelled",) * 2,
    ):
        if option in given:
            word = given[option]
            settings[name] = word if word in ("hub", "none") else os.path.abspath(word)
    return {**settings, "config": config}


def _resumed(out: str, args: argparse.Namespace):
    """Return the settings a run began with, changed by what was typed; `train` may refuse them."""
    import dataclasses

    from adfast.models import read_run_info
    from adfast.training import TrainSettings

    settings = TrainSettings(**read_run_info(out)["training"])
    names = ("epochs", "patience")
    typed = {name: getattr(args, name) for name in names if hasattr(args, name)}
    if args.model is not None:
        recipe = RECIPES[args.model]
        typed = _typed(args, recipe)
        config = {**settings.config, **typed["config"]}
        given = _given(args, recipe)
        if "size" in given or "resize" in given:
            config |= {k: v for k, v in _settings(args, recipe)["config"].items() if k in SIZES}
        typed["config"] = config
    return dataclasses.replace(settings, **typed)


SIZES = ("resize", "crop")
