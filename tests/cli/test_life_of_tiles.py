"""From large images to a plan that inspects large frames in tiles, and predicting parts of them."""

import importlib.util
import json

import numpy as np
import pytest

import adfast
from adfast import cli
from adfast.data.folder import test_set as listed
from adfast.data.scenes import generate
from adfast.data.tiles import cut, tile_places, write_tiles
from adfast.errors import AdfastError, ArgumentError, DataError
from adfast.images import read_image, write_png

SIDE, TILE = 160, 64


@pytest.fixture(scope="module")
def life(tmp_path_factory):
    """Cut generated images into tiles, train on them for an epoch, build with tiles."""
    for package in ("torch", "timm", "onnx", "onnxruntime", "onnxscript", "PIL"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    root = tmp_path_factory.mktemp("tiles")
    generate(root / "data", train=4, good=1, per_defect=1, size=SIDE)
    words = ["tile", root / "data", "--tile", TILE, "--out", root / "tiles"]
    assert cli.main([*map(str, words)]) == 0
    words = ["train", "gtrans", "--data", root / "tiles", "--backbone", "resnet18"]
    words += ["--weights", "none", "--epochs", "1", "--size", TILE, "--batch", "8"]
    assert cli.main([*map(str, words), "--out", str(root / "run")]) == 0
    words = ["build", root / "run", "-o", root / "model.plan", "--tile", TILE]
    words += ["--tile-overlap", "10", "--calibrate", root / "data/train/good"]
    assert cli.main([*map(str, words), "--precision", "f32"]) == 0
    return root


def test_tiles_of_a_data_set_hold_all_of_it(life):
    whole, tiles = listed(life / "data"), listed(life / "tiles")
    assert {label for _, label, _ in tiles} == {label for _, label, _ in whole}
    count = len(list(cut(np.zeros((SIDE, SIDE)), (TILE, TILE), TILE // 8)))
    assert count == 9 and len(tiles) == count * len(whole)
    for path, label, mask in tiles:
        assert read_image(path).shape[:2] == (TILE, TILE)
        assert (mask is None) == (label == "good")
        assert mask is None or read_image(mask).any()


def test_the_plan_inspects_whole_frames(life, capsys):
    engine = adfast.load(life / "model.plan", device="cpu")
    assert engine.info["tile"] == (TILE, TILE, 10)
    assert engine.self_test()["passed"]
    frame = read_image(next((life / "data/test/scratch").glob("*.png")))
    result = engine.predict(frame)
    assert result.network_map is None and result.map.shape == (SIDE, SIDE)
    # Only the margin that the crop of the outermost tiles leaves is not seen.
    assert result.inspected == (4, 4, SIDE - 8, SIDE - 8)
    # The threshold is of whole frames: four can show a rate of a quarter, one of them above.
    scores = [engine.predict(read_image(p)).score for p in (life / "data/train/good").iterdir()]
    assert engine.info["threshold"] == pytest.approx(sorted(scores)[-2], rel=1e-6)
    capsys.readouterr()
    assert cli.main(["info", str(life / "model.plan")]) == 0
    assert f"larger than {TILE}x{TILE} pixels" in capsys.readouterr().out


def test_predict_takes_parts_of_frames(life, capsys):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:60] = 255
    write_png(life / "mask.png", mask)
    image = next((life / "data/test/good").glob("*.png"))
    words = ["predict", life / "model.plan", image, "--json"]
    parts = ["--roi", "10,20,90,100", "--ignore", str(life / "mask.png")]
    assert cli.main([*map(str, words), *parts]) == 0
    (record,) = json.loads(capsys.readouterr().out)["results"]
    engine = adfast.load(life / "model.plan")
    result = engine.predict(read_image(image), roi=(10, 20, 90, 100), ignore=mask)
    assert record["score"] == result.score
    assert record["inspected"] == list(result.inspected)
    assert len(record["regions"]) == len(result.regions())
    assert cli.main([*map(str, words), "--roi", "10,20,90"]) == 2
    assert "expected X,Y,W,H" in capsys.readouterr().err


def test_a_threshold_of_single_tiles_is_warned_about(life, capsys):
    words = ["build", life / "run", "-o", life / "small.plan", "--tile", TILE, "--precision", "f32"]
    assert cli.main([*map(str, words)]) == 0
    assert "no image for the threshold is larger than a tile" in capsys.readouterr().err


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 128, 160, 1000])
@pytest.mark.parametrize("overlap", [0, 8, 32])
def test_places_cover_every_pixel(length, overlap):
    places = tile_places(length, 64, overlap)
    assert places[0] == 0 and places[-1] == max(0, length - 64)
    steps = np.diff(places)
    assert (steps > 0).all() and (steps <= 64 - overlap).all()


def test_what_cannot_be_cut_is_refused(life, tmp_path):
    with pytest.raises(AdfastError, match="not empty"):
        write_tiles(life / "data", life / "tiles", (64, 64), 8)
    for place in ("train/good", "test/dent"):
        (tmp_path / place).mkdir(parents=True)
        write_png(tmp_path / place / "a.png", np.zeros((70, 70), np.uint8))
    with pytest.raises(DataError, match="has no mask, which says which of its tiles"):
        write_tiles(tmp_path, tmp_path / "out", (64, 64), 8)
    (tmp_path / "ground_truth/dent").mkdir(parents=True)
    write_png(tmp_path / "ground_truth/dent/a_mask.png", np.zeros((69, 70), np.uint8))
    with pytest.raises(DataError, match="70 x 69, expected that of its image, 70 x 70"):
        write_tiles(tmp_path, tmp_path / "out", (64, 64), 8)


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [((8, 64), None, "16 to"), ((64, 64), 33, "half of a tile"), (None, 3, "needs tiles")],
)
def test_impossible_tiles_are_refused(tile, overlap, message):
    from adfast.build import tile_fields

    with pytest.raises(ArgumentError, match=message):
        tile_fields(tile, overlap)
