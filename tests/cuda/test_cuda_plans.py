"""Whole plans on the CUDA backend against the CPU: the five models, frames of all layouts, errors.

The models are small ones on the emulator and those of the papers on a card; see conftest.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import adfast
from adfast.compiler.writer import Golden, write_plan

FRAME = np.random.default_rng(9).integers(0, 256, (45, 37, 3), dtype=np.uint8)
# Of the map's maximum: rounding to eleven, and to eight, bits at every layer.
TOLERANCE = {"f32": 1e-4, "f16": 1e-2, "bf16": 6e-2}

PAPER = {
    "gtrans": {"backbone": "resnet34", "alpha_scale": [1.0, 1.0, 1.0]},
    "adtr": {},
    "adtr_plus": {},
    "intra": {},
    "saae": {"width": 120},
    "haloae": {},
}


@pytest.fixture(scope="module", params=sorted(PAPER))
def plan(request, cuda, plan_of_model):
    return plan_of_model(request.param, None if cuda.emulated else PAPER[request.param])


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16"])
def test_model(plan, precision, on_cuda):
    expected = adfast.load(plan, device="cpu", precision="f32").predict(FRAME)
    engine = on_cuda(plan, precision=precision)
    assert engine.info["device"] == "cuda" and engine.info["precision"] == precision
    peak = expected.network_map.max()
    for _ in range(2):  # recorded, and launched again
        got = engine.predict(FRAME)
        assert np.abs(got.network_map - expected.network_map).max() <= TOLERANCE[precision] * peak
        assert np.abs(got.map - expected.map).max() <= TOLERANCE[precision] * peak
        assert abs(got.score - expected.score) <= TOLERANCE[precision] * peak


@pytest.fixture(scope="module")
def engine(tiny_plan, on_cuda):
    return on_cuda(tiny_plan, precision="f32")


@pytest.mark.parametrize(
    "frame",
    [
        FRAME,
        FRAME[::-1],
        FRAME[:, ::-1],
        FRAME[::2, ::2],
        np.asfortranarray(FRAME),
        np.ascontiguousarray(FRAME.transpose(2, 0, 1)).transpose(1, 2, 0),
        FRAME[:, :, ::-1],
        FRAME[:, :, 1],
        FRAME[:1, :1],
        np.tile(FRAME, (7, 5, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("pixel_format", ["", "BGR8"])
def test_frames_of_all_layouts(frame, pixel_format, tiny_plan, engine):
    if frame.ndim == 2:
        pixel_format = "Mono8"
    expected = adfast.load(tiny_plan, device="cpu", precision="f32").predict(
        frame, pixel_format=pixel_format
    )
    got = engine.predict(frame, pixel_format=pixel_format)
    np.testing.assert_allclose(got.network_map, expected.network_map, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.map, expected.map, rtol=1e-4, atol=1e-6)
    assert got.inspected == expected.inspected


@pytest.mark.parametrize("pixel_format", ["Mono10", "Mono16", "BayerRG8", "BayerGB8"])
def test_formats_of_cameras(pixel_format, tiny_plan, engine):
    mono = pixel_format.startswith("Mono")
    top = 1 << int(pixel_format[4:]) if mono else 256
    kind = np.uint16 if mono else np.uint8
    frame = np.random.default_rng(2).integers(0, top, (43, 52)).astype(kind)
    for given in (frame, frame[::-1, ::-1], frame[::2, 1:]):
        expected = adfast.load(tiny_plan, device="cpu", precision="f32")
        expected = expected.predict(given, pixel_format=pixel_format)
        got = engine.predict(given, pixel_format=pixel_format)
        np.testing.assert_allclose(got.map, expected.map, rtol=1e-4, atol=1e-6)


def test_parts_of_frames(tiny_plan_with, on_cuda):
    path = tiny_plan_with(tile=(30, 32), overlap=6)
    frame = np.random.default_rng(3).integers(0, 256, (75, 90, 3), dtype=np.uint8)
    mask = np.zeros(frame.shape[:2], bool)
    mask[:, 50:] = True
    engine, expected = on_cuda(path, precision="f32"), adfast.load(path, device="cpu")
    for parts in ({}, {"roi": (5, 7, 60, 50)}, {"ignore": mask}, {"roi": (9, 9, 30, 30)}):
        got, want = engine.predict(frame, **parts), expected.predict(frame, **parts)
        np.testing.assert_allclose(got.map, want.map, rtol=1e-4, atol=1e-6)
        assert got.score == pytest.approx(want.score, rel=1e-4)
        assert got.inspected == want.inspected


class OnCard:
    """An array as torch and CuPy describe theirs; an emulated card's memory is the host's."""

    def __init__(self, array, card, **changes):
        if card:
            self.tensor = torch.from_numpy(np.ascontiguousarray(array)).cuda()
            interface = self.tensor.__cuda_array_interface__
        else:
            self.array = np.ascontiguousarray(array)
            host = self.array.__array_interface__
            interface = {"data": host["data"], "shape": host["shape"], "strides": None}
            interface |= {"typestr": host["typestr"], "version": 3}
        self.__cuda_array_interface__ = interface | changes


@pytest.mark.parametrize("frame", [FRAME, FRAME[:, :, 0]], ids=["rgb", "grey"])
def test_frames_on_the_card(frame, engine, cuda, tiny_plan):
    card = not cuda.emulated
    expected = engine.predict(frame).map
    np.testing.assert_array_equal(engine.predict(OnCard(frame, card)).map, expected)
    for got in engine.predict_batch([OnCard(frame, card)] * 4):
        np.testing.assert_array_equal(got.map, expected)
    with pytest.raises(adfast.FrameError, match="without gaps"):
        engine.predict(OnCard(frame, card, strides=(1, 2, 3)))
    with pytest.raises(adfast.FrameError, match="uint8"):
        engine.predict(OnCard(frame, card, typestr="<f4"))
    with pytest.raises(adfast.FrameError, match=r"\(height, width\)"):
        engine.predict(OnCard(frame, card, shape=(5,), strides=None))
    with pytest.raises(adfast.FrameError, match="runs on the CPU"):
        adfast.load(tiny_plan, device="cpu").predict(OnCard(frame, card))


def test_batch_and_threads_give_the_same_bits(engine):
    frames = [np.roll(FRAME, i, axis=0)[: 20 + i] for i in range(6)]
    alone = [engine.predict(frame).map for frame in frames]
    for got, expected in zip(engine.predict_batch(frames), alone, strict=True):
        np.testing.assert_array_equal(got.map, expected)
    failures = []

    def work():
        for frame, expected in zip(frames, alone, strict=True):
            if not np.array_equal(engine.predict(frame).map, expected):
                failures.append(frame.shape)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_self_test_and_profile(tiny_plan, engine, on_cuda):
    assert engine.self_test()["passed"]
    steps = engine.profile(FRAME)
    assert {step["op"] for step in steps} >= {"frame", "conv2d", "score_map", "reduce_max"}
    assert all(step["ms"] >= 0 for step in steps)


def test_overflow_is_named(tmp_path, on_cuda):
    """What f16 cannot hold is an error with the step's name, and bf16 holds it."""
    from adfast.compiler.graph import Graph
    from adfast.compiler.writer import plan_fields

    graph = Graph("large")
    frame = {"resize": [8, 8], "crop": [8, 8], "scale": [1.0] * 3, "bias": [1.0] * 3}
    (x,) = graph.add("frame", [], frame, name="frame")
    weight = graph.constant("w", np.full((8, 3, 3, 3), 300.0, np.float32))
    (x,) = graph.add("conv2d", [x, weight], {"pads": [1, 1, 1, 1]}, name="too_large")
    (x,) = graph.add("reduce_mean", [x], {"axes": [1]}, name="mean")
    graph.output("map", x)
    graph.output("score", graph.add("reduce_max", [x], {"axes": [1, 2, 3], "keepdims": 0})[0])
    path = tmp_path / "large.plan"
    write_plan(
        path,
        graph,
        plan_fields(model="large", name="large", resize=[8, 8], crop=[8, 8]),
        {},
        Golden(),
        {},
        {},
    )
    image = np.full((8, 8), 200, np.uint8)
    engine = on_cuda(path, precision="f16")
    dark = np.zeros((8, 8), np.uint8)
    assert len(engine.predict_batch([dark] * 5)) == 5
    with pytest.raises(adfast.AdfastError, match="too_large"):
        engine.predict_batch([dark, image, dark, dark, image])
    assert len(engine.predict_batch([dark] * 4)) == 4
    with pytest.raises(adfast.AdfastError, match=r"\[conv2d 'too_large'\] is the first step"):
        engine.predict(image)
    with pytest.raises(adfast.AdfastError, match="too_large"):  # and the engine lives
        engine.predict(image)
    assert np.isfinite(on_cuda(path, precision="bf16").predict(image).score)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_told_to_load_again(engine):
    engine.predict(FRAME)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            engine.predict(FRAME)
            message = "predicted"
        except adfast.AdfastError as error:
            message = str(error)
        os.write(write, message.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert "load the plan in the new process" in pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert np.isfinite(engine.predict(FRAME).score)


def test_wrong_options(tiny_plan, on_cuda):
    with pytest.raises(adfast.ArgumentError, match="expected 'f32', 'f16' or 'bf16'"):
        on_cuda(tiny_plan, precision="f64")
    with pytest.raises(adfast.ArgumentError, match="int8.*device='cpu'"):
        on_cuda(tiny_plan, precision="int8")
    with pytest.raises(adfast.ArgumentError, match="this machine has"):
        on_cuda(tiny_plan, device="cuda:99")
    with pytest.raises(adfast.ArgumentError, match="a number after the colon"):
        on_cuda(tiny_plan, device="cuda:x")
    with pytest.raises(adfast.ArgumentError, match="expected 'auto', 'cpu', 'cuda'"):
        adfast.load(tiny_plan, device="tpu")


def load_elsewhere(path, folders, **environment) -> dict:
    """Load a plan in a process of its own; return its error, or what `info` says."""
    code = (
        "import adfast, json, sys\n"
        "try: print(json.dumps({'info': {k: adfast.load(sys.argv[1], device=sys.argv[2]).info[k]\n"
        "                                for k in ('device', 'device_note')}}))\n"
        "except adfast.AdfastError as e: print(json.dumps({'error': str(e)}))\n"
    )
    found = {}
    for device in ("cuda", "auto"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), device],
            env=os.environ | {"ADFAST_LIBRARIES": ":".join(folders)} | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found[device] = json.loads(done.stdout)
    return found


def test_auto_takes_the_card(tiny_plan, cuda):
    found = load_elsewhere(tiny_plan, cuda.folders)
    assert found["auto"]["info"] == {"device": "cuda", "device_note": ""}


def test_machines_without(tiny_plan, cuda, tmp_path):
    """No card, too little memory, no cuDNN: said, and the CPU taken."""
    if not cuda.emulated:
        pytest.skip("a card cannot be taken away; without one, the emulated backend runs this")
    here = cuda.folders
    # The true plugin, where it was built: its machine has no driver or no card.
    found = load_elsewhere(tiny_plan, [])
    assert re.search("no device can be used|0 device|built without it", found["cuda"]["error"])
    assert "device='cpu'" in found["cuda"]["error"] or "0 device" in found["cuda"]["error"]
    assert found["auto"]["info"] == {"device": "cpu", "device_note": found["cuda"]["error"]}
    for environment, message in (
        ({"ADFAST_EMULATED_DEVICES": "0"}, "this machine has 0 device"),
        ({"ADFAST_EMULATED_MEMORY": "1"}, "out of device memory"),
    ):
        found = load_elsewhere(tiny_plan, here, **environment)
        assert message in found["cuda"]["error"]
        assert found["auto"]["info"]["device"] == "cpu"
        assert message in found["auto"]["info"]["device_note"]
    found = load_elsewhere(tiny_plan, [f"{here[0]}/other_version"])
    assert "is of another version of adfast" in found["cuda"]["error"]
    assert found["auto"]["info"]["device"] == "cpu"
    for name in ("libadfast_cuda.so", "libadfast_emulated_cuda.so", "libcublasLt.so.13"):
        (tmp_path / name).symlink_to(f"{here[0]}/{name}")
    found = load_elsewhere(tiny_plan, [str(tmp_path)])
    assert "pip install nvidia-cudnn-cu13" in found["cuda"]["error"]
    assert found["auto"]["info"]["device"] == "cpu"


def test_a_frame_too_large_for_the_card(tiny_plan, cuda):
    """It fails, in a batch too, and the engine goes on."""
    if not cuda.emulated:
        pytest.skip("a card's memory cannot be shrunk; without one, the emulated backend runs this")
    code = (
        "import adfast, numpy, sys\n"
        "engine = adfast.load(sys.argv[1], device='cuda')\n"
        "small, large = numpy.zeros((9, 9), 'u1'), numpy.zeros((8000, 8000), 'u1')\n"
        "expected = engine.predict(small).score\n"
        "for frames in ([large], [small, large]):\n"
        "    try: engine.predict_batch(frames)\n"
        "    except adfast.AdfastError as error: assert 'out of device memory' in str(error)\n"
        "    else: raise SystemExit('no error')\n"
        "    assert engine.predict(small).score == expected\n"
        "    assert engine.predict_batch([small] * 5)[4].score == expected\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tiny_plan)],
        env=os.environ
        | {"ADFAST_LIBRARIES": ":".join(cuda.folders), "ADFAST_EMULATED_MEMORY": "300"},
        check=True,
    )
