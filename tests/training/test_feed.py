"""Reading images: in this process and in others, with the same bits; what is unusable is named."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402
from test_train import assert_same_run  # noqa: E402
from tiny_runs import CONFIG, StopAt, make_images, settings  # noqa: E402

from adfast.data.folder import find_images, load_image, to_network  # noqa: E402
from adfast.errors import AdfastError, DataError  # noqa: E402
from adfast.training import feed as feeding  # noqa: E402
from adfast.training import train  # noqa: E402
from adfast.training.feed import Feed  # noqa: E402
from adfast.training.reporting import Reporter  # noqa: E402

SIZES = ((36, 40), (32, 32))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data"))


def feed(paths, keep=False, workers=2):
    return Feed(paths, *SIZES, keep=keep, workers=workers, report=Reporter())


def test_workers_change_neither_order_nor_bits(data):
    paths = find_images(data / "train" / "good")
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1)).split(3)
    expected = [
        torch.stack([to_network(load_image(paths[i]), *SIZES) for i in indices])
        for indices in order
    ]
    state = torch.get_rng_state()
    for options in ({"keep": True}, {"workers": 0}, {"workers": 1}, {"workers": 2}):
        found = list(feed(paths, **options).batches(order))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), options
        assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(feed(paths).batches([])) == []
    assert not multiprocessing.active_children()


def test_decoding_happens_in_the_workers(data, monkeypatch):
    paths = find_images(data / "train" / "good")
    source = feed(paths)
    batches = [torch.tensor([0, 1])]
    # A worker that is killed is said, not waited for.
    monkeypatch.setattr(feeding, "to_network", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(AdfastError, match="was killed.*--workers"):
        list(source.batches(batches))
    assert not multiprocessing.active_children()


def test_an_image_that_breaks_later_is_named(tmp_path):
    paths = find_images(make_images(tmp_path, 4) / "train" / "good")
    for workers in (0, 2):
        source = feed(paths, workers=workers)
        kept = paths[2].read_bytes()
        paths[2].write_bytes(kept[:80])
        with pytest.raises(DataError, match="002.png") as error:
            list(source.batches([torch.tensor([0]), torch.tensor([1, 2])]))
        assert "Traceback" not in str(error.value)
        paths[2].write_bytes(kept)


def test_an_image_that_is_too_small_is_named(tmp_path):
    root = make_images(tmp_path, 4)
    Image.new("RGB", (15, 40)).save(root / "train" / "good" / "001.png")
    with pytest.raises(DataError, match="1 of 4.*001.png: 15 x 40 pixels.*at least 16 x 16"):
        train(settings(root), tmp_path / "run")


def test_little_shared_memory_means_fewer_workers(data, monkeypatch):
    source = feed(find_images(data / "train" / "good"), workers=4)
    batches = [[0, 1]] * 10
    size = 2 * 3 * 32 * 32 * 4
    for batches_of_room, expected in ((100, 4), (6, 2), (3, 0), (0, 0)):
        usage = type("Usage", (), {"free": batches_of_room * size})
        monkeypatch.setattr(feeding.shutil, "disk_usage", lambda path, usage=usage: usage)
        assert source._processes(batches) == expected
    assert source._processes([]) == 0


# In the middle of the third epoch; in its validation, which the workers still serve.
@pytest.mark.parametrize("images", [24, 29])
def test_ctrl_c_with_workers_resumes_to_the_bit(data, tmp_path, images):
    wish = {"precision": "f32", "cache": "off", "workers": 2, "epochs": 3}
    train(settings(data, **{**wish, "workers": 0}), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, **wish), tmp_path / "run", report=StopAt(images))
    train(settings(data, **wish), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert not multiprocessing.active_children()


def children(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        found += [int(stat.parent.name)] if parent == pid else []
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_ctrl_c_at_a_terminal_leaves_no_process(data, tmp_path):
    """Every process of the group gets the signal, as at a terminal."""
    out = tmp_path / "run"
    words = ["train", "gtrans", "--data", data, "--out", out, "--backbone", "resnet18"]
    words += ["--weights", "none", "--size", "32", "--epochs", "500", "--batch", "3"]
    words += ["--cache", "off", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "adfast", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "python")},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    seen = []
    while not ((out / "last.safetensors").is_file() and seen):
        assert process.poll() is None and time.monotonic() < deadline
        seen = children(process.pid) or seen
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert f"--out {out} --resume" in errors
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, 0)


def test_settings_refuse_a_number_of_workers_below_none(data):
    with pytest.raises(AdfastError, match="workers is -1, expected at least 0"):
        settings(data, config=CONFIG, workers=-1)
