"""Sources of frames: a folder, OpenCV, a GenICam camera (the simulation in the package genicam)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import adfast
from adfast import cameras
from adfast.images import write_png

ROOT = Path(__file__).parent.parent.parent
RANDOM = np.random.default_rng(12)
FRAMES = [RANDOM.integers(0, 256, (24, 32), dtype=np.uint8) for _ in range(5)]


@pytest.fixture
def engine(tiny_plan):
    return adfast.load(tiny_plan, device="cpu")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(FRAMES):
        write_png(folder / f"{number:03}.png", frame)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def test_a_folder(engine, images):
    (images / "002b.png").write_bytes(b"broken")
    results = list(engine.stream().run(cameras.folder(images, watch=False)))
    assert [r.result.score for r in results] == [engine.predict(f).score for f in FRAMES]
    assert all(r.timestamp > 10**18 for r in results)
    with pytest.raises(adfast.AdfastError, match="cannot watch"):
        list(cameras.folder(images / "none"))


def test_a_watched_folder_waits_for_whole_files(engine, images, tmp_path):
    whole = (images / "000.png").read_bytes()
    stream = engine.stream(capacity=1)
    got = []

    def write_slowly():
        while len(got) < len(FRAMES):
            time.sleep(0.01)
        with open(images / "900.png", "wb") as file:
            for part in (whole[:100], whole[100:]):
                file.write(part)
                file.flush()
                time.sleep(cameras.SETTLED / 3)

    writer = threading.Thread(target=write_slowly)
    writer.start()
    for result in stream.run(cameras.folder(images)):
        got.append(result.result.score)
        if len(got) == len(FRAMES) + 1:
            break
    writer.join()
    assert got[-1] == engine.predict(FRAMES[0]).score


def test_opencv_reads_a_video(engine, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    path = str(tmp_path / "line.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for number in range(6):
        writer.write(np.full((48, 64, 3), (10 * number, 100, 200), np.uint8))
    writer.release()
    frames = list(cameras.opencv(path))
    assert [f.id for f in frames] == list(range(6))
    assert frames[3].pixel_format == "BGR8" and frames[3].image.shape == (48, 64, 3)
    results = list(engine.stream().run(cameras.opencv(path)))
    expected = [engine.predict(f.image, pixel_format="BGR8").score for f in frames]
    assert [r.result.score for r in results] == expected
    with pytest.raises(adfast.AdfastError, match="cannot open"):
        next(cameras.opencv(str(tmp_path / "none.avi")))


@pytest.fixture
def camera():
    """The first camera of the simulation in the package genicam."""
    genicam = pytest.importorskip("genicam", reason="harvesters is not installed")
    from harvesters.core import Harvester

    producer = os.path.join(os.path.dirname(genicam.__file__), "viky.cti")
    if not os.path.exists(producer):
        pytest.skip("this genicam brings no simulated camera")
    harvester = Harvester()
    harvester.add_file(producer)
    harvester.update()
    acquirer = harvester.create(0)
    yield acquirer
    acquirer.destroy()
    harvester.reset()


@pytest.mark.parametrize("pixel_format", ["Mono8", "RGBa8"])
def test_a_genicam_camera(engine, camera, pixel_format):
    nodes = camera.remote_device.node_map
    nodes.PixelFormat.value = pixel_format
    seen = []

    def source():
        for frame in cameras.genicam(camera):
            seen.append(np.array(frame.image))
            yield frame
            if len(seen) == 4:
                return

    results = list(engine.stream().run(source()))
    shape = (nodes.Height.value, nodes.Width.value)
    assert seen[0].shape == (shape if pixel_format == "Mono8" else (*shape, 3))
    assert [r.result.score for r in results] == [engine.predict(image).score for image in seen]
    assert [r.id for r in results] == [0, 1, 2, 3]


def test_the_example_watches_a_folder(tiny_plan, images):
    program = [sys.executable, str(ROOT / "examples/stream.py"), str(tiny_plan), str(images)]
    once = subprocess.run([*program, "--once", "--port", "0"], capture_output=True, text=True)
    assert once.returncode == 0, once.stderr
    engine = adfast.load(tiny_plan)
    words = [line.split() for line in once.stdout.splitlines()]
    assert [float(word[1]) for word in words] == pytest.approx(
        [engine.predict(frame).score for frame in FRAMES]
    )


def test_the_examples_page(engine):
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import stream as example
    finally:
        sys.path.pop(0)
    opened = engine.stream()
    opened.submit(FRAMES[0])
    opened.poll()
    server = example.serve(engine, opened, 0)
    try:
        address = f"http://localhost:{server.server_address[1]}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            page = answer.read().decode()
    finally:
        server.shutdown()
        opened.close()
    assert 'adfast_stream_frames_total{model="tiny",name="tiny",outcome="completed"} 1' in page
