"""Several categories in one evaluation: which model goes with which data, and the papers' means.

    DATA/<category>/test/good, DATA/<category>/test/<defect>, DATA/<category>/ground_truth
    MODELS/<category>.plan, or MODELS/<category>/ (the folder of a training run)

A mean over categories is that of their figures, each category counting once however many images it
has, as the papers have it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from adfast.errors import DataError
from adfast.published import OBJECTS, TEXTURES

#: The metrics that are averaged.
AVERAGED = ("image_auroc", "image_ap", "f1_max", "pixel_auroc", "aupro")


def find_categories(data: Path) -> list[str]:
    """Return the sub-folders of `data` that hold a test set; none where `data` is one itself."""
    if (data / "test").is_dir() or not data.is_dir():
        return []
    return sorted(path.parent.name for path in data.glob("*/test") if path.is_dir())


def find_models(models: Path, categories: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """Find the plan or the run of every category -> (category: path), categories without one.

    A plan comes before a run: it is what would be deployed.

    Raises:
        DataError: there is no model for any category.
    """
    found, missing = {}, []
    for name in categories:
        plan, run = models / f"{name}.plan", models / name
        if plan.is_file():
            found[name] = plan
        elif (run / "config.json").is_file():
            found[name] = run
        else:
            missing.append(name)
    if not found:
        raise DataError(
            f"{models} has no model for any category; expected for example "
            f"{models / (missing[0] + '.plan')} (adfast build) or the run {models / missing[0]} "
            "(adfast train)"
        )
    return found, missing


def groups(categories: Iterable[str]) -> dict[str, list[str]]:
    """Return what means are taken over: MVTec AD's textures and objects, where so named; all."""
    names = list(categories)
    made = {}
    if set(names) <= {*TEXTURES, *OBJECTS}:
        for title, members in (("mean of textures", TEXTURES), ("mean of objects", OBJECTS)):
            own = [name for name in names if name in members]
            if own:
                made[title] = own
    return made | {"mean of all": names}


def having(results: dict[str, dict[str, Any]], names: Iterable[str], metric: str) -> list[str]:
    """Return those categories that have a metric: pixel metrics need masks."""
    return [name for name in names if results[name]["metrics"][metric] is not None]


def averages(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Average evaluations -> per group {"categories", "metrics", "intervals", "of"}.

    A metric is averaged over the categories that have it ("of" says how many). The interval of a
    mean takes the categories for independent and their figures for normally distributed: its half
    width is the root of the summed squares of theirs, divided by their number.
    """
    made = {}
    for title, names in groups(results).items():
        entry: dict[str, Any] = {"categories": names, "metrics": {}, "intervals": {}, "of": {}}
        for metric in AVERAGED:
            measured = having(results, names, metric)
            values = [results[name]["metrics"][metric] for name in measured]
            entry["of"][metric] = len(measured)
            entry["metrics"][metric] = float(np.mean(values)) if measured else None
            ends = [results[name]["intervals"].get(metric) for name in measured]
            if measured and all(ends):
                low, high = np.array(ends).T
                mean, count = entry["metrics"][metric], len(measured)
                down = float(np.sqrt(np.square(values - low).sum())) / count
                up = float(np.sqrt(np.square(high - values).sum())) / count
                entry["intervals"][metric] = [max(0.0, mean - down), min(1.0, mean + up)]
        made[title] = entry
    return made
