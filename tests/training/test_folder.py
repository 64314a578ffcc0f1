"""Finding, splitting and reading images."""

import numpy as np
import pytest
from PIL import Image

from adfast.data import folder
from adfast.errors import DataError


def image(path, value=9, mode="L", size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


@pytest.fixture
def root(tmp_path):
    for name in ("b.png", "a.JPG", "c.bmp"):
        image(tmp_path / "train" / "good" / name)
    (tmp_path / "train" / "good" / "notes.txt").write_text("no image")
    image(tmp_path / "train" / "good" / ".hidden.png")
    image(tmp_path / "test" / "good" / "g.png")
    for name in ("s1.png", "s2.jpg", "s3.png"):
        image(tmp_path / "test" / "scratch" / name)
    image(tmp_path / "ground_truth" / "scratch" / "s1_mask.png")
    image(tmp_path / "ground_truth" / "scratch" / "s2.png")
    return tmp_path


def test_find_images_sorts_and_skips_what_is_none(root):
    found = folder.find_images(root / "train" / "good")
    assert [path.name for path in found] == ["a.JPG", "b.png", "c.bmp"]


def test_missing_good_images(tmp_path):
    with pytest.raises(DataError, match="train/good does not exist.*MVTec layout"):
        folder.good_images(tmp_path)
    (tmp_path / "train" / "good").mkdir(parents=True)
    with pytest.raises(DataError, match="no good images to train on.*holds no images"):
        folder.good_images(tmp_path)
    with pytest.raises(DataError, match="expected at least 2"):
        folder.split_good([tmp_path / "one.png"])


def test_split_is_seeded_complete_and_disjoint(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(11)]
    train, validation = folder.split_good(paths, 0.8, seed=3)
    assert (len(train), len(validation)) == (9, 2)
    assert sorted(train + validation) == sorted(paths)
    assert folder.split_good(paths, 0.8, seed=3) == (train, validation)
    assert folder.split_good(paths, 0.8, seed=4) != (train, validation)
    assert [len(part) for part in folder.split_good(paths[:2], 0.99)] == [1, 1]


def test_test_set_finds_masks(root):
    found = [(p.name, label, mask and mask.name) for p, label, mask in folder.test_set(root)]
    assert found == [
        ("g.png", "good", None),
        ("s1.png", "scratch", "s1_mask.png"),
        ("s2.jpg", "scratch", "s2.png"),
        ("s3.png", "scratch", None),
    ]


def test_lists(root, tmp_path):
    lines = tmp_path / "list.txt"
    lines.write_text("# held out\ntest/scratch/s1.png\n\ntrain/good/b.png\n")
    found = folder.test_set(root, lines)
    assert [(p.name, label) for p, label, _ in found] == [("b.png", "good"), ("s1.png", "scratch")]
    assert [p.name for p in folder.good_images(root, lines)] == ["s1.png", "b.png"]
    for text, message in [
        ("", "names no images"),
        ("train/good/b.png\ntrain/good/b.png\n", "more than once"),
        ("train/good/gone.png\n", "1 files of the list .* do not exist, first .*gone.png"),
    ]:
        lines.write_text(text)
        with pytest.raises(DataError, match=message):
            folder.read_list(lines, root)
    with pytest.raises(DataError, match="cannot read the list"):
        folder.read_list(tmp_path / "none.txt", root)


def test_load_image_makes_rgb_and_names_the_broken(tmp_path):
    grey = folder.load_image(image(tmp_path / "grey.png", 7))
    assert grey.shape == (4, 5, 3) and grey.dtype == np.uint8 and (grey == 7).all()
    (tmp_path / "broken.png").write_bytes((tmp_path / "grey.png").read_bytes()[:40])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("broken.png", "text.jpg", "gone.png"):
        with pytest.raises(DataError, match=name):
            folder.load_image(tmp_path / name)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="deep.png: a 16-bit PNG.*--pixel-format"):
        folder.load_image(tmp_path / "deep.png")


def antialiased(row, size):
    """Bilinear with a triangle as wide as the scale, the slow way, along the last axis."""
    scale = row.shape[-1] / size
    support = max(scale, 1.0)
    out = []
    for i in range(size):
        centre = (i + 0.5) * scale
        taps = np.maximum(0, 1 - np.abs((np.arange(row.shape[-1]) + 0.5 - centre) / support))
        out.append((row * taps).sum(axis=-1) / taps.sum())
    return np.stack(out, axis=-1)


@pytest.mark.parametrize("shape", [(50, 70), (9, 11), (20, 24)])
def test_to_network_against_a_slow_twin(shape):
    pytest.importorskip("torch")
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    actual = folder.to_network(frame, (20, 24), (15, 17)).numpy()
    channels = frame.astype(np.float64).transpose(2, 0, 1)
    columns = antialiased(channels, 24)
    resized = antialiased(columns.transpose(0, 2, 1), 20).transpose(0, 2, 1)
    np.testing.assert_allclose(actual, resized[:, 2:17, 3:20] / 255, atol=2e-6)
    assert actual.dtype == np.float32 and actual.shape == (3, 15, 17)


def test_dataset_hash_sees_names_and_bytes_but_not_order(root):
    paths = folder.find_images(root / "train" / "good")
    before = folder.dataset_sha256(root, paths)
    assert folder.dataset_sha256(root, paths[::-1]) == before
    image(paths[0], 10)
    changed = folder.dataset_sha256(root, paths)
    paths[0].rename(paths[0].with_name("z.JPG"))
    renamed = folder.dataset_sha256(root, folder.find_images(root / "train" / "good"))
    assert len({before, changed, renamed}) == 3


def test_resize_for():
    assert [folder.resize_for(side) for side in (224, 64, 32)] == [256, 73, 37]
