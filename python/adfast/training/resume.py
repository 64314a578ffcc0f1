"""Going on with a run: only as it began, and not when it has ended."""

from __future__ import annotations

from pathlib import Path

from adfast import models
from adfast.errors import ModelError
from adfast.training import checkpoint
from adfast.training.settings import TrainSettings

# What decides where a training arrives. The rest says how long and with what means it goes on.
FIXED = ("list_file", "pixel_format", "batch", "optimizer", "lr", "schedule", "lr_decay", "lr_drop")
FIXED += ("weight_decay", "fraction", "seed")


def begun(settings: TrainSettings, out: Path) -> dict:
    """Return the config.json of a run that these settings may go on with.

    Raises:
        ModelError: they are not those it began with: says which, before any image is read.
    """
    info = models.read_run_info(out)
    if info["model"] != settings.model:
        _refuse(out, "model", [f"it is {settings.model}, the run's is {info['model']}"])
    training = info.get("training") or {}
    cls = models.config_class(settings.model)
    theirs = cls.from_dict(training.get("config", info["config"])).to_dict()
    ours = cls.from_dict(settings.config).to_dict()
    other = [f"{k} is {ours[k]!r}, the run's {theirs[k]!r}" for k in ours if ours[k] != theirs[k]]
    if other:
        _refuse(out, "config", other)
    for name in FIXED:
        value = getattr(settings, name)
        if name in training and training[name] != value:
            _refuse(out, name, [f"it is {value!r}, the run's is {training[name]!r}"])
    return info


def check(before: dict, now: dict, out: Path) -> None:
    """Compare "data" and "weights" of a run with those of now; a ModelError says what differs."""
    theirs, ours = before.get("data") or {}, now["data"]
    for key in ("root", "train", "validation", "sha256", "labelled"):
        if theirs.get(key) != ours.get(key):
            changed = "the bytes of its images" if key == "sha256" else f"its {key}"
            _refuse(out, "data", [f"{changed} changed"])
    if before.get("weights") != now["weights"]:
        _refuse(out, "weights", [f"they are {now['weights']}, the run's {before.get('weights')}"])


def _refuse(out: Path, what: str, details: list[str]) -> None:
    raise ModelError(
        f"cannot resume {out}: its {what} is not that of this training ({'; '.join(details)}); "
        "use the same settings and images, or another --out"
    )


def ending(settings: TrainSettings, info: dict, out: Path) -> str | None:
    """Say that a run has ended, and why; None if there is something left to do."""
    history = checkpoint.read_history(out / "history.jsonl")
    if not info.get("finished") or not history:
        return None
    done, best = history[-1]["epoch"], info["best"]["epoch"]
    if done >= settings.epochs:
        return f"{out} is finished after {done} epochs; --epochs N goes on to more"
    if stalled(settings.patience, done, best):
        return (
            f"{out} stopped after epoch {done}, {done - best} epochs after its best; "
            "a larger --patience (0: none) goes on"
        )
    return None


def stalled(patience: int, done: int, best: int) -> bool:
    """Whether the best epoch is `patience` epochs ago; epochs count from 1, patience 0 is none."""
    return 0 < patience <= done - best
