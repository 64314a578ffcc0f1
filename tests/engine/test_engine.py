"""The engine as a line program sees it: frames of all layouts, batches, threads, bad input."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import adfast

SPINS = "GOMP_SPINCOUNT"
FRAME = np.random.default_rng(9).integers(0, 256, (45, 37, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def engine(tiny_plan):
    return adfast.load(tiny_plan)


def test_result_fields(engine):
    result = engine.predict(FRAME)
    assert result.map.shape == (45, 37) and result.map.dtype == np.float32
    assert result.network_map.shape == (16, 16)
    assert result.score == pytest.approx(result.network_map.max())
    assert result.threshold == 0.05
    assert result.is_anomalous == (result.score > 0.05)
    assert np.array_equal(result.mask, result.map > 0.05)
    assert set(result.timings) == {"frame", "network", "map", "total"}
    assert result.timings["total"] >= result.timings["network"] > 0


def test_map_is_zero_outside_the_inspected_part(engine):
    frame = np.random.default_rng(4).integers(0, 256, (180, 200), dtype=np.uint8)
    result = engine.predict(frame)
    # resize 18x20, crop 16x16: one row of ten pixels above and below, two columns left and right.
    assert result.inspected == (20, 10, 160, 160)
    outside = np.ones(frame.shape, bool)
    outside[10:170, 20:180] = False
    assert not result.map[outside].any()
    assert (result.map[~outside] > 0).all()


def layouts():
    yield "reversed rows", FRAME[::-1], FRAME[::-1].copy()
    yield "reversed columns", FRAME[:, ::-1], FRAME[:, ::-1].copy()
    yield "every second pixel", FRAME[::2, ::2], FRAME[::2, ::2].copy()
    yield "fortran order", np.asfortranarray(FRAME), FRAME
    yield "planar", np.ascontiguousarray(FRAME.transpose(2, 0, 1)).transpose(1, 2, 0), FRAME
    yield "reversed channels", FRAME[:, :, ::-1], FRAME[:, :, ::-1].copy()
    yield "a window", np.pad(FRAME, ((3, 2), (5, 4), (0, 0)))[3:-2, 5:-4], FRAME
    yield "broadcast grey", np.broadcast_to(FRAME[:, :, :1], FRAME.shape), FRAME[:, :, 0].copy()


@pytest.mark.parametrize(
    ("name", "given", "plain"), list(layouts()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_strides_do_not_matter(engine, name, given, plain):
    assert np.array_equal(engine.predict(given).map, engine.predict(plain).map)


def test_bgr_is_rgb_reversed(engine):
    flipped = np.ascontiguousarray(FRAME[:, :, ::-1])
    assert np.array_equal(
        engine.predict(flipped, pixel_format="BGR8").map, engine.predict(FRAME).map
    )


def test_read_only_and_foreign_buffers(engine):
    expected = engine.predict(FRAME[:, :, 0]).map
    frame = FRAME[:, :, 0].copy()
    frame.setflags(write=False)
    assert np.array_equal(engine.predict(frame).map, expected)
    assert np.array_equal(engine.predict(memoryview(frame)).map, expected)


def test_batch_equals_single_to_the_bit(tiny_plan):
    frames = [
        np.random.default_rng(i).integers(0, 256, (20 + 3 * i, 50 - i, 3), dtype=np.uint8)
        for i in range(7)
    ]
    for precision in ("f32", "bf16"):
        for threads in (1, 2):
            engine = adfast.load(tiny_plan, threads=threads, precision=precision)
            batch = engine.predict_batch(frames)
            for frame, result in zip(frames, batch, strict=True):
                assert np.array_equal(engine.predict(frame).map, result.map)
    assert engine.predict_batch([]) == []


@pytest.mark.parametrize("frames_at_once", [1, 2, 3])
def test_frames_side_by_side_give_the_bits_of_one_alone(tiny_plan, frames_at_once):
    frames = [
        np.random.default_rng(i).integers(0, 256, (30 + i, 40, 3), dtype=np.uint8) for i in range(5)
    ]
    alone = adfast.load(tiny_plan, device="cpu", threads=1)
    engine = adfast.load(tiny_plan, device="cpu", threads=3, frames_at_once=frames_at_once)
    assert engine.info["frames_at_once"] == frames_at_once
    for frame, result in zip(frames, engine.predict_batch(frames), strict=True):
        assert np.array_equal(alone.predict(frame).map, result.map)
    assert np.array_equal(alone.predict(frames[0]).map, engine.predict(frames[0]).map)


def test_one_engine_from_many_threads(engine):
    frames = [np.full((30, 30), 20 * i, np.uint8) for i in range(8)]
    expected = [engine.predict(frame).score for frame in frames]
    wrong = []

    def work(index):
        for _ in range(50):
            if engine.predict(frames[index]).score != expected[index]:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_many_engines(tiny_plan):
    engines = [adfast.load(tiny_plan, threads=2) for _ in range(20)]
    assert len({engine.predict(FRAME).score for engine in engines}) == 1


def test_sizes_from_one_pixel(engine):
    for size in ((1, 1), (1, 300), (300, 1), (2, 3), (1000, 700)):
        result = engine.predict(np.full(size, 77, np.uint8))
        assert result.map.shape == size
        assert np.isfinite(result.map).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.float32), "float32, expected uint8"),
        (np.zeros((8, 8), np.uint16), "uint16, expected uint8"),
        (np.zeros((8, 8), bool), "bool, expected uint8"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\), expected"),
        (np.zeros((8, 8, 1), np.uint8), r"\(8, 8, 1\), expected"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"\(2, 8, 8, 3\), expected"),
        (np.zeros(8, np.uint8), r"\(8,\), expected"),
        (np.zeros((0, 8), np.uint8), "0x8 pixels"),
        (np.zeros((1, 40000), np.uint8), "1x40000 pixels"),
        (None, "NoneType"),
        ("no/such/file.png", "no/such/file.png"),
    ],
)
def test_bad_frames_are_refused(engine, image, message):
    with pytest.raises(adfast.FrameError, match=message):
        engine.predict(image)
    assert np.isfinite(engine.predict(FRAME).score)  # and the engine lives


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_told_to_load_again(tiny_plan):
    engine = adfast.load(tiny_plan, threads=2)
    engine.predict(FRAME)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            engine.predict(FRAME)
            message = "predicted"
        except adfast.AdfastError as error:
            message = str(error)
        del engine  # must not wait for threads that are not there
        os.write(write, message.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert "load the plan in the new process" in pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert np.isfinite(engine.predict(FRAME).score)


def test_bad_arguments_are_refused(tiny_plan, engine):
    for options, message in (
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"precision": "f16"}, "precision is 'f16'"),
        ({"threads": -1}, "threads is -1"),
        ({"threads": 2, "frames_at_once": 3}, "frames_at_once is 3, expected 1 to the number"),
        ({"frames_at_once": -1}, "frames_at_once is -1"),
    ):
        with pytest.raises(adfast.ArgumentError, match=message):
            adfast.load(tiny_plan, **options)
    with pytest.raises(adfast.ArgumentError, match="pixel_format is 'HSV'"):
        engine.predict(FRAME, pixel_format="HSV")
    with pytest.raises(adfast.ArgumentError, match="n is -1"):
        engine.warmup(-1)


def test_self_test_passes_and_fails(tiny_plan, monkeypatch):
    engine = adfast.load(tiny_plan, precision="f32")
    report = engine.self_test()
    assert report["passed"] and len(report["frames"]) == 3
    engine._plan["golden"][1]["map"][3, 4] *= 1.5
    assert not engine.self_test()["passed"]


def test_profile_lists_every_step(engine):
    steps = engine.profile(FRAME)
    assert [s["op"] for s in steps].count("conv2d") == 4
    assert steps[0]["op"] == "frame"
    assert all(s["ms"] >= 0 and s["kernel"] for s in steps)
    assert sorted(s["index"] for s in steps) == list(range(len(steps)))


def test_profile_counts_bytes_and_flops(tiny_plan):
    steps = {s["name"]: s for s in adfast.load(tiny_plan, precision="f32").profile(FRAME)}
    pixels = 16 * 16
    # 3 channels in, 4 out, a weight of 3x3 and a bias each; oneDNN may pad packed channels.
    plain = 4 * (pixels * (3 + 4) + 4 * 3 * 9 + 4)
    assert plain <= steps["a0"]["bytes"] <= plain + 4 * (16 * 16 * 9 + 16)
    assert steps["a0"]["gflop"] == pytest.approx(2e-9 * pixels * 4 * 3 * 9, rel=0.1)
    # The blur's kernel is not packed: two maps and three weights.
    assert steps["blur"]["bytes"] == 4 * (2 * pixels + 3)


def test_info_and_repr(engine):
    info = engine.info
    assert info["model"] == "tiny" and info["map_size"] == (16, 16)
    assert "tiny" in repr(engine)


@pytest.mark.parametrize("module", ["adfast", "adfast.training"])
@pytest.mark.parametrize(("given", "expected"), [(None, "2000"), ("77", "77")])
def test_threads_spin_briefly_unless_told_otherwise(given, expected, module):
    """The setting is OpenMP's when it is loaded with adfast, and nobody else's afterwards."""
    if module == "adfast.training":
        pytest.importorskip("torch")
    environment = {k: v for k, v in os.environ.items() if k not in (SPINS, "OMP_WAIT_POLICY")}
    environment |= {"OMP_DISPLAY_ENV": "verbose"} | ({SPINS: given} if given else {})
    program = f"import os, {module}; print(os.environ.get({SPINS!r}))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(given)
    found = re.findall(rf"{SPINS} = '(\w+)'", done.stderr)  # of each libgomp: PyTorch has its own
    assert found and set(found) == {expected}
