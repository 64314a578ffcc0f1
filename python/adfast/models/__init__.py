"""The models, one file per paper, and finding them by name."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path

from adfast.errors import ModelError
from adfast.progress import Track, silent

# Name of the model, which is that of its file: its class. The config is the class with "Config".
MODELS = {
    "gtrans": "GTrans",
    "adtr": "ADTR",
    "adtr_plus": "ADTRPlus",
    "saae": "SAAE",
    "intra": "InTra",
    "haloae": "HaloAE",
}


def model_class(name: str) -> type:
    """Return the class of a model; a ModelError names the models there are."""
    return _member(name, "")


def config_class(name: str) -> type:
    """Return the config dataclass of a model; a ModelError names the models there are."""
    return _member(name, "Config")


def _member(name: str, suffix: str) -> type:
    if name not in MODELS:
        raise ModelError(f"model is {name!r}; choose one of {', '.join(MODELS)}")
    return getattr(importlib.import_module(f"adfast.models.{name}"), MODELS[name] + suffix)


def create(name: str, config=None, **options):
    """Build a model by name.

    Args:
        name: one of `MODELS`.
        config: the model's config, its `to_dict` form, or None for the defaults.
        **options: passed to the model's constructor.

    Raises:
        ModelError: no such model, or a config that cannot work.
    """
    cls = config_class(name)
    if not isinstance(config, cls):
        config = cls.from_dict(config or {})
    return model_class(name)(config, **options)


def load_run(
    run_dir: str | Path,
    *,
    track: Track = silent,
    log: Callable[[str], None] = warnings.warn,
):
    """Load the best checkpoint of a training run.

    A model with a mean map gets that of its training images, computed the first time; see
    `adfast.models.mean_map`.

    Args:
        run_dir: the folder `adfast train --out` wrote.
        track: wraps the images of a long step, to show progress: track(items, what).
        log: called with lines for people.

    Returns:
        The model, in eval mode on the CPU, and the run's config.json as a dict.

    Raises:
        ModelError: the folder is no run, has no checkpoint yet, or its files do not fit together.
        DataError: the mean map has to be computed, and training images are gone.
    """
    from adfast.training.checkpoint import load_model

    run_dir = Path(run_dir)
    info = read_run_info(run_dir)
    path = run_dir / "best.safetensors"
    if not path.is_file():
        raise ModelError(f"{run_dir} has no best.safetensors: its training has not ended an epoch")
    model = create(info["model"], info["config"])
    load_model(path, model)
    if model.has_mean_map:
        from adfast.models import mean_map

        mean_map.settle(model, run_dir, info, track, log)
    return model, info


def read_run_info(run_dir: str | Path) -> dict:
    """Read RUN/config.json; a ModelError says if the folder is no run."""
    path = Path(run_dir) / "config.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        info["model"], info["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{run_dir} is not the folder of a training run: cannot read {path} "
            f"({type(error).__name__}: {error}); make one with adfast train --out"
        ) from error
    return info


def run_pixel_format(run_dir: str | Path, info: dict, asked: str = "") -> str:
    """Return the pixel format of the images that a run was trained on; "" for those of 8 bits.

    Args:
        run_dir: the run folder, for the error.
        info: its config.json.
        asked: the format that the user names; "" for none.

    Raises:
        ModelError: the two differ.
    """
    recorded = (info.get("training") or {}).get("pixel_format", "")
    if asked and asked != recorded:
        raise ModelError(
            f"the pixel format is {asked!r}, but {run_dir} was trained on images of "
            f"{recorded or '8 bits'}: what it learned is not what it would see; leave "
            "--pixel-format out, the run knows its own, or train on images of this format"
        )
    return recorded
