"""One training after the other over the categories of a data set, as MVTec AD has them.

DATA/<category>/train/good/*  ->  RUNS/<category>
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from adfast.data.folder import good_images, split_good
from adfast.errors import AdfastError, DataError
from adfast.training.loop import train
from adfast.training.reporting import Reporter
from adfast.training.settings import TrainSettings


def categories(data: str | Path) -> list[str]:
    """Return the subfolders with train/good, sorted; none if DATA itself has a train/good."""
    data = Path(data)
    if (data / "train" / "good").is_dir() or not data.is_dir():
        return []
    return sorted(p.name for p in data.iterdir() if (p / "train" / "good").is_dir())


def train_all(
    settings: TrainSettings,
    out: str | Path,
    *,
    resume: bool = False,
    report: Reporter | None = None,
    train: Callable[..., dict] = train,
) -> dict[str, dict | AdfastError]:
    """Train every category of `settings.data` into a folder of `out`.

    Where `labelled` or a run folder as `weights` has a subfolder of the category's name, that one
    is taken. What goes wrong with one category does not stop the others.

    Args:
        settings: as for one category; `data` is the folder of all of them.
        out: folder of the runs.
        resume: go on: leave finished runs, go on with begun ones, begin the others.
        report: is told of the progress.
        train: trains one of them.

    Returns:
        Of each category its config.json, or the error that ended it.

    Raises:
        DataError: a category has too few images, found before the first is trained.
        AdfastError: a category has a run already, and this is no resume.
        KeyboardInterrupt: Ctrl-C came; the state of the category at work is saved.
    """
    report = report or Reporter()
    if settings.list_file is not None:
        raise DataError("--list names images of one category; train them one by one")
    names = categories(settings.data)
    each = {name: _of(settings, name) for name in names}
    for name, own in each.items():
        split_good(good_images(own.data), own.fraction, own.seed)
        run = Path(out) / name
        if not resume and (run / "last.safetensors").is_file():
            raise AdfastError(
                f"{run} holds a training already; go on with --resume or choose another --out"
            )
    results: dict[str, dict | AdfastError] = {}
    for i, (name, own) in enumerate(each.items(), 1):
        report.message(f"{name} ({i} of {len(names)})")
        try:
            results[name] = train(own, Path(out) / name, resume=resume, report=report)
        except AdfastError as error:
            report.close()
            report.message(f"{name}: {error}")
            results[name] = error
    return results


def _of(settings: TrainSettings, name: str) -> TrainSettings:
    changes = {"data": str(Path(settings.data) / name)}
    for field in ("labelled", "weights"):
        value = getattr(settings, field)
        if value is not None and (Path(value) / name).is_dir():
            changes[field] = str(Path(value) / name)
    return dataclasses.replace(settings, **changes)
