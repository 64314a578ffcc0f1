"""Training on images of 16 bits a sample: what the network sees is what the engine shows it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_runs import settings  # noqa: E402

import adfast  # noqa: E402
from adfast.compiler.graph import Graph  # noqa: E402
from adfast.compiler.writer import Golden, plan_fields, write_plan  # noqa: E402
from adfast.data.folder import find_images, load_image, to_network  # noqa: E402
from adfast.errors import AdfastError, ArgumentError, DataError, FrameError, ModelError  # noqa: E402
from adfast.images import largest_value, read_image, write_png  # noqa: E402
from adfast.models import load_run, read_run_info, run_pixel_format  # noqa: E402
from adfast.run_engine import RunEngine  # noqa: E402
from adfast.training import train  # noqa: E402
from adfast.training.feed import Feed  # noqa: E402
from adfast.training.labelled import Labelled  # noqa: E402
from adfast.training.reporting import Reporter  # noqa: E402

RESIZE, CROP = (18, 20), (16, 16)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Squares on noise, as a camera of Mono12 saves them; labelled ones with masks of 8 bits."""
    root = tmp_path_factory.mktemp("deep")
    rng = np.random.default_rng(0)
    for name in (*(f"train/good/{i}" for i in range(10)), "test/dent/0", "test/dent/1"):
        frame = rng.integers(0, 1300, (40, 40 + len(name) % 3), dtype=np.uint16)
        frame[8:28, 10:30] += 2000
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(root / f"{name}.png", frame)
        if "test" in name:
            mask = root / "ground_truth/dent" / f"{name[-1]}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            write_png(mask, np.where(frame > 2000, 255, 0).astype(np.uint8))
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "deep"
    train(settings(data, epochs=1, precision="f32", pixel_format="Mono12"), out)
    return out


@pytest.fixture(scope="module")
def looking_glass(tmp_path_factory):
    """An engine whose map is the first channel of what its network sees, RGB in [0, 1]."""
    graph = Graph("glass")
    attrs = {"resize": list(RESIZE), "crop": list(CROP), "antialias": 1}
    (frame,) = graph.add("frame", [], attrs | {"scale": [1 / 255] * 3, "bias": [0.0] * 3})
    first = graph.constant("first", np.eye(1, 3, dtype=np.float32).reshape(1, 3, 1, 1))
    plain = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "groups": 1}
    (seen,) = graph.add(
        "conv2d", [frame, first, None, None], plain | {"activation": "none"}, name="first"
    )
    (score,) = graph.add("reduce_max", [seen], {"axes": [1, 2, 3], "keepdims": 0}, name="score")
    graph.output("map", seen)
    graph.output("score", score)
    path = tmp_path_factory.mktemp("plan") / "glass.plan"
    fields = plan_fields(model="glass", name="glass", resize=RESIZE, crop=CROP)
    write_plan(path, graph, fields, {}, Golden(), {}, {})
    return adfast.load(path, device="cpu", precision="f32")


@pytest.mark.parametrize("name", ["Mono10", "Mono12", "Mono16"])
@pytest.mark.parametrize("shape", [(40, 31), (16, 16), (9, 57)])
def test_training_sees_what_the_engine_shows_the_network(tmp_path, looking_glass, name, shape):
    # Values beyond the format's are among them: neither side clips.
    frame = np.random.default_rng(3).integers(0, 2**16, shape, dtype=np.uint16)
    if name != "Mono16":
        frame[::2] %= largest_value(name) + 1
    path = tmp_path / "frame.png"
    write_png(path, frame)
    trained = to_network(load_image(path, name), RESIZE, CROP).numpy()
    deployed = looking_glass.predict(path, pixel_format=name).network_map
    assert trained.dtype == np.float32 and trained.max() > (1 if name != "Mono16" else 0.5)
    np.testing.assert_allclose(trained[0], deployed, rtol=2e-6, atol=1e-6)
    assert (trained == trained[0]).all()  # grey is repeated


def test_a_feed_reads_the_format_here_and_in_workers(data):
    paths = find_images(data / "train/good")
    order = [torch.arange(3)]
    expected = torch.stack([to_network(load_image(p, "Mono12"), RESIZE, CROP) for p in paths[:3]])
    assert 0.2 < float(expected.mean()) < 0.8
    for options in ({"keep": True}, {"keep": False, "workers": 1}):
        feed = Feed(
            paths, RESIZE, CROP, report=Reporter(), pixel_format="Mono12", **options
        )  # fmt: skip
        assert torch.equal(next(feed.batches(order)), expected)
    with pytest.raises(DataError, match="10 of 10 training images.*--pixel-format"):
        Feed(paths, RESIZE, CROP, keep=True, report=Reporter())


def test_labelled_images_have_the_format_and_their_masks_8_bits(data):
    options = {"masks": True, "resize": RESIZE, "crop": CROP, "grid": (2, 2), "fraction": 0.5}
    options |= {"seed": 0, "report": Reporter()}
    found = Labelled(data, pixel_format="Mono12", **options)
    expected = to_network(load_image(data / "test/dent/0.png", "Mono12"), RESIZE, CROP)
    assert torch.equal(found.images[0], expected) and found.labels.any()
    with pytest.raises(DataError, match="2 of 2 labelled images.*--pixel-format"):
        Labelled(data, **options)


def test_a_mean_map_is_of_the_format(data, tmp_path):
    config = {"patch": 8, "window": 3, "width": 16, "blocks": 3, "heads": 2, "crop": [32, 32]}
    config |= {"resize": [36, 36], "epoch_windows": 2, "visit_windows": 2, "validation_windows": 2}
    fields = {"model": "intra", "config": config, "precision": "f32", "epochs": 1}
    train(settings(data, pixel_format="Mono12", **fields), tmp_path)
    assert load_run(tmp_path)[0].mean_map.max() > 0


def test_the_run_knows_its_format(run):
    info = read_run_info(run)
    assert run_pixel_format(run, info) == run_pixel_format(run, info, "Mono12") == "Mono12"
    with pytest.raises(ModelError, match="is 'Mono16'.*trained on images of Mono12"):
        run_pixel_format(run, info, "Mono16")
    before = {**info, "training": {k: v for k, v in info["training"].items() if "pixel" not in k}}
    assert run_pixel_format(run, before) == ""
    with pytest.raises(ModelError, match="trained on images of 8 bits"):
        run_pixel_format(run, before, "Mono12")


def test_it_goes_on_with_the_same_format_only(data, run):
    with pytest.raises(
        ModelError, match="pixel_format is not that.*'Mono16', the run's is 'Mono12"
    ):
        train(settings(data, epochs=2, precision="f32", pixel_format="Mono16"), run, resume=True)
    with pytest.raises(AdfastError, match="pixel_format is 'Mono14', expected Mono10, Mono12"):
        settings(data, pixel_format="Mono14")


def test_a_run_answers_frames_of_its_format(data, run):
    engine = RunEngine(run)
    frame = read_image(find_images(data / "train/good")[0], "Mono12")
    result = engine.predict(frame, pixel_format="Mono12")
    assert result.map.shape == frame.shape
    # The same scene in 16 bits has the same answer but for rounding.
    wide = np.rint(frame * (65535 / 4095)).astype(np.uint16)
    again = engine.predict(wide, pixel_format="Mono16")
    np.testing.assert_allclose(result.network_map, again.network_map, rtol=1e-2, atol=1e-6)
    with pytest.raises(FrameError, match="uint8.*expected uint16.*for Mono12"):
        engine.predict((frame >> 4).astype(np.uint8), pixel_format="Mono12")
    with pytest.raises(FrameError, match="uint16.*expected uint8"):
        engine.predict(frame)
    with pytest.raises(ArgumentError, match="'BayerRG8', expected one of Mono10"):
        engine.predict(frame, pixel_format="BayerRG8")
