"""The `adfast` command. A sub-command is a module of `adfast.commands`, imported when called."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from adfast.errors import AdfastError
from adfast.terminal import printable

#: Command, what it does, an example. In the order of a model's life.
COMMANDS = (
    (
        "demo",
        "generate images, train, build, predict and evaluate, all in one",
        "adfast demo --out demo",
    ),
    (
        "train",
        "train a model on a folder of good images",
        "adfast train gtrans --data data/screws --weights resnet34.safetensors --out runs/screws",
    ),
    (
        "cifar10",
        "make one-class data sets from CIFAR-10's published files",
        "adfast cifar10 cifar-10-batches-bin --normal cat --out data/cat",
    ),
    (
        "tile",
        "cut a data set of large images into tiles",
        "adfast tile data/boards --tile 512 --out data/boards-tiles",
    ),
    ("export", "write a trained model as ONNX", "adfast export runs/screws -o screws.onnx"),
    (
        "build",
        "compile a trained model or an ONNX file into a plan",
        "adfast build runs/screws -o screws.plan",
    ),
    ("info", "show what a plan holds and where it came from", "adfast info screws.plan"),
    (
        "selftest",
        "run a plan's golden frames and compare with what its model answered",
        "adfast selftest screws.plan",
    ),
    (
        "predict",
        "score images; write overlays and maps",
        "adfast predict screws.plan images/ part_7.png -o out",
    ),
    (
        "eval",
        "measure on labelled images: AUROC, AUPRO, F1-max, verdicts",
        "adfast eval screws.plan --data data/screws --out report\n"
        "  adfast eval runs/screws --data data/screws --resamples 0\n"
        "  adfast eval plans/ --data data/mvtec --out report",
    ),
    (
        "calibrate",
        "set a plan's threshold anew, from images of its line",
        "adfast calibrate screws.plan -o line4.plan --good line4/good --max-fpr 0.005",
    ),
    ("keygen", "make the keys that plans are signed and checked with", "adfast keygen key.pem"),
    ("sign", "sign a plan", "adfast sign line4.plan --key key.pem"),
    (
        "verify",
        "check who signed a plan, and that nothing changed since",
        "adfast verify line4.plan --key key.pub.pem",
    ),
    (
        "tune",
        "measure which implementation of each step is the fastest on this machine",
        "adfast tune screws.plan -o screws.tactics",
    ),
    (
        "bench",
        "measure latency by stage, in percentiles",
        "adfast bench screws.plan --image part.png",
    ),
)

_LIFE = """\
the life of a model:
  adfast train gtrans --data DATA --out RUN   learns from DATA/train/good      (adfast[train])
  adfast build RUN -o model.plan              compiles, calibrates, compares   (adfast[train])
  adfast info model.plan                      what is in the plan
  adfast selftest model.plan                  does this machine compute what the plan promises?
  adfast predict model.plan IMAGES -o out     scores, verdicts, overlays, maps
  adfast eval model.plan --data DATA          metrics on DATA/test, a report   (adfast[eval])
  adfast calibrate model.plan -o line.plan --good DIR   a threshold from the line's own images
  adfast keygen, adfast sign, adfast verify   who made a plan                  (adfast[sign])
  adfast tune model.plan -o model.tactics     the fastest kernels of this machine, if need be
  adfast bench model.plan                     latency on this machine

A plan is one file; the machine on the line needs it, adfast and numpy, nothing else.
"adfast COMMAND --help" explains a command and gives an example.

exit codes: 0 done, 1 an error (one message on stderr), 2 wrong usage, 3 predict: some images
could not be read, 130 interrupted
"""

# Optional packages and the extra that brings them.
_EXTRAS = {
    "torch": "train", "timm": "train", "safetensors": "train", "rich": "train",
    "onnx": "compile", "onnxscript": "train", "onnxruntime": "train",
    "scipy": "eval", "sklearn": "eval", "PIL": "images", "cryptography": "sign",
}  # fmt: skip


class _CMakeDir(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from adfast import _core

        # Beside the compiled module, wherever the installation put that.
        print(os.path.join(os.path.dirname(_core.__file__), "lib", "cmake", "adfast"))
        parser.exit(0)


class _PkgConfigDir(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from adfast import _core

        print(os.path.join(os.path.dirname(_core.__file__), "lib", "pkgconfig"))
        parser.exit(0)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from adfast import __version__

        print(f"adfast {__version__}")
        parser.exit(0)


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Make the parser; only `command`'s own module is imported, for its arguments."""
    parser = argparse.ArgumentParser(
        prog="adfast",
        description="Visual anomaly detection: learn from good images, run as fast as the machine "
        "allows.",
        epilog=_LIFE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument(
        "--cmake-dir",
        action=_CMakeDir,
        nargs=0,
        help="print the folder of the CMake configuration for C and C++ programs and exit",
    )
    parser.add_argument(
        "--pkg-config-dir",
        action=_PkgConfigDir,
        nargs=0,
        help="print the folder of adfast.pc, for PKG_CONFIG_PATH, and exit",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary, example in COMMANDS:
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command:
            _module(name).add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; messages for people go to stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    names = {name for name, _, _ in COMMANDS}
    # The first word that is no option is the command: adfast itself has no option with a value.
    command = next((word for word in argv if not word.startswith("-")), None)
    command = command if command in names else None
    try:
        try:
            args = make_parser(command).parse_args(argv)
        except SystemExit as stop:  # argparse exits; a function should return
            sys.stdout.flush()
            return stop.code if isinstance(stop.code, int) else 2
        code = _module(args.command).run(args)
        sys.stdout.flush()
        return int(code or 0)
    except AdfastError as error:
        return _fail(command, str(error))
    except ImportError as error:
        text = _missing(error)
        if text is None:
            raise
        return _fail(command, text)
    except KeyboardInterrupt:
        print("\nadfast: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has left. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that vanished: not a bug, so no traceback
        place = f"{error.filename}: " if error.filename else ""
        return _fail(command, f"{place}{error.strerror or error}")
    except MemoryError:
        return _fail(command, "out of memory")


def _module(command: str):  # noqa: ANN202
    return importlib.import_module(f"adfast.commands.{command}")


def _fail(command: str | None, text: str) -> int:
    text = f"adfast {command}: {text}" if command else f"adfast: {text}"
    print(printable(text), file=sys.stderr)
    return 1


def _missing(error: ImportError) -> str | None:
    """Say which extra brings a missing package; None when it is none of ours."""
    if "pip install" in str(error):
        return str(error)
    package = (error.name or "").split(".")[0]
    if package not in _EXTRAS:
        return None
    return f'this needs {package}, which is not installed: pip install "adfast[{_EXTRAS[package]}]"'


if __name__ == "__main__":
    sys.exit(main())
