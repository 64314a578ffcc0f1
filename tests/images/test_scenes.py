"""The generated part: repeatable, in the MVTec layout, with masks that mark what changed."""

import numpy as np
import pytest

from adfast.data import scenes
from adfast.errors import DataError
from adfast.images import read_image


@pytest.mark.parametrize("defect", sorted(scenes.DEFECTS))
def test_the_mask_marks_what_the_defect_changed(defect):
    for seed in range(3):
        picture, mask = scenes.make_scene(np.random.default_rng(seed), defect, 96)
        again, _ = scenes.make_scene(np.random.default_rng(seed), defect, 96)
        np.testing.assert_array_equal(picture, again)
        assert picture.shape == (96, 96, 3) and picture.dtype == np.uint8
        assert 8 < mask.sum() < 0.1 * mask.size
        # Other defects of the same seed differ from this one most where the mask is.
        good, none = scenes.make_scene(np.random.default_rng(seed), None, 96)
        change = np.abs(picture.astype(float) - good).mean(axis=2)
        assert not none.any()
        assert change[mask].mean() > change[~mask].mean() + 2


def test_generate_writes_the_layout_once(tmp_path):
    root = scenes.generate(tmp_path / "set", train=3, good=2, per_defect=1, size=32, seed=4)
    assert len(list((root / "train/good").iterdir())) == 3
    assert len(list((root / "test/good").iterdir())) == 2
    assert {p.name for p in (root / "test").iterdir()} == {"good", *scenes.DEFECTS}
    for defect in scenes.DEFECTS:
        mask = read_image(root / "ground_truth" / defect / "000_mask.png")
        assert mask.shape == (32, 32) and set(np.unique(mask)) == {0, 255}
    before = (root / "train/good/000.png").stat().st_mtime_ns
    scenes.generate(root, train=3, good=2, per_defect=1, size=32, seed=4)
    assert (root / "train/good/000.png").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="other generated scenes"):
        scenes.generate(root, train=4, good=2, per_defect=1, size=32, seed=4)


def test_an_unknown_defect_is_refused():
    with pytest.raises(DataError, match="known: chip"):
        scenes.make_scene(np.random.default_rng(0), "rust")
