"""What the papers give for MVTec AD, in percent, to stand beside an evaluation of our own.

Facts as printed, with the table they stand in. A paper's figures hold for its own backbone, size
and training, and for the files of MVTec AD; on other data they are no yardstick. Three printed
means do not follow from the printed rows: GTrans-R34's image AUROC (rows: 99.4), HaloAE's image
AUROC (92.0) and InTra's AUPRO as GTrans cites it (92.4).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
OBJECTS = (
    *("bottle", "cable", "capsule", "hazelnut", "metal_nut"),
    *("pill", "screw", "toothbrush", "transistor", "zipper"),
)
CATEGORIES = TEXTURES + OBJECTS


@dataclass(frozen=True)
class Published:
    """One metric of one model.

    Attributes:
        name: as the paper calls the model.
        model: as adfast calls it.
        metric: "image_auroc", "pixel_auroc" or "aupro".
        mean: over all categories, as printed.
        source: paper and table.
        values: in the order of `CATEGORIES`; empty where only the mean is at hand.
    """

    name: str
    model: str
    metric: str
    mean: float
    source: str
    values: tuple[float, ...] = ()

    def over(self, categories: Iterable[str]) -> float | None:
        """Return the mean over some categories: the printed one over all, else that of the rows.

        None where the paper's values do not reach.
        """
        wanted = set(categories)
        if wanted == set(CATEGORIES):
            return self.mean
        if not self.values or not wanted or not wanted <= set(CATEGORIES):
            return None
        return sum(self.values[CATEGORIES.index(name)] for name in wanted) / len(wanted)


def _values(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in text.split())


MVTEC_AD = (
    Published("GTrans-R34", "gtrans", "image_auroc", 99.0, "GTrans, Table 1", _values(
        "99.9 99.4 100.0 98.9 99.9 100.0 99.9 97.0 100.0 99.5 99.9 98.3 100.0 99.7 98.9")),
    Published("GTrans-WR50", "gtrans", "image_auroc", 98.5, "GTrans, Table 1", _values(
        "100.0 100.0 100.0 98.9 99.5 100.0 99.7 95.1 100.0 100.0 92.7 93.6 100.0 99.3 99.9")),
    Published("GTrans-R34", "gtrans", "pixel_auroc", 97.9, "GTrans, Table 2", _values(
        "99.2 98.8 99.4 95.0 97.1 97.9 97.3 98.1 98.8 97.7 98.6 99.2 98.3 95.8 98.0")),
    Published("GTrans-WR50", "gtrans", "pixel_auroc", 98.2, "GTrans, Table 2", _values(
        "99.2 99.0 99.5 97.0 97.8 98.5 97.6 98.0 98.8 98.1 98.9 99.2 98.6 94.1 98.8")),
    Published("GTrans-R34", "gtrans", "aupro", 90.9, "GTrans, Table 2", _values(
        "97.3 93.3 97.8 79.2 92.2 92.6 91.4 77.0 98.1 93.0 94.2 93.2 87.6 82.3 94.0")),
    Published("GTrans-WR50", "gtrans", "aupro", 93.0, "GTrans, Table 2", _values(
        "96.7 96.2 98.4 84.5 95.7 94.9 92.3 86.9 98.7 94.3 95.1 95.5 89.7 79.9 95.6")),
    Published("ADTR", "adtr", "image_auroc", 96.4, "ADTR, Table 2"),
    Published("ADTR", "adtr", "pixel_auroc", 97.2, "ADTR, Table 1"),
    Published("ADTR+", "adtr_plus", "image_auroc", 96.9, "ADTR, Table 2"),
    Published("ADTR+", "adtr_plus", "pixel_auroc", 97.5, "ADTR, Table 1"),
    Published("InTra", "intra", "image_auroc", 95.94, "InTra, Table 1", _values(
        "98.8 100.0 100.0 98.2 98.0 100.0 84.2 86.5 95.7 96.9 90.2 95.7 99.7 95.8 99.4")),
    Published("InTra", "intra", "pixel_auroc", 96.98, "InTra, Table 2", _values(
        "99.2 99.4 99.5 94.4 90.5 97.1 93.2 97.7 98.3 93.3 98.3 99.5 99.0 96.1 99.2")),
    Published("InTra", "intra", "aupro", 92.1, "GTrans, Table 2, column InTra", _values(
        "95.8 96.6 98.0 92.1 93.6 95.1 87.7 92.2 94.3 94.5 96.5 93.0 92.2 69.5 95.2")),
    Published("SAAE", "saae", "pixel_auroc", 97.9, "SAAE, Table 2", _values(
        "97.9 98.6 99.6 97.3 97.6 97.9 96.8 98.2 98.5 97.6 98.1 98.9 98.7 96.0 96.9")),
    Published("SAAE", "saae", "aupro", 93.6, "SAAE, Table 3", _values(
        "93.1 96.4 98.7 92.7 95.4 94.3 89.0 92.9 96.6 91.7 97.1 94.6 93.1 88.2 90.3")),
    Published("HaloAE", "haloae", "image_auroc", 91.4, "HaloAE, Table 2", _values(
        "69.7 95.1 97.8 95.7 100.0 100.0 84.6 88.4 99.8 88.4 90.1 89.6 97.2 84.4 99.7")),
    Published("HaloAE", "haloae", "pixel_auroc", 91.2, "HaloAE, Table 2", _values(
        "89.4 83.1 98.5 78.5 91.1 91.9 87.6 97.8 97.8 85.2 91.5 99.0 92.9 87.5 96.0")),
)  # fmt: skip


def find(models: set[str], metric: str) -> list[Published]:
    """Return what the papers say of some models, in the order they are listed here."""
    return [each for each in MVTEC_AD if each.model in models and each.metric == metric]
