"""Regions of interest, ignore masks, tiles, and the regions of a map."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import adfast

RANDOM = np.random.default_rng(8)
FRAME = RANDOM.integers(0, 256, (97, 131, 3), dtype=np.uint8)
TILE, OVERLAP = (40, 50), 9


@pytest.fixture(scope="module")
def engine(tiny_plan):
    return adfast.load(tiny_plan)


@pytest.fixture(scope="module")
def tiled(tiny_plan_with):
    return adfast.load(tiny_plan_with(tile=TILE, overlap=OVERLAP))


def test_a_region_of_interest_is_the_whole_frame(engine):
    box = adfast.Box(20, 30, 64, 41)
    got = engine.predict(FRAME, roi=box)
    expected = engine.predict(FRAME[box.slices])
    assert got.score == expected.score
    assert np.array_equal(got.network_map, expected.network_map)
    assert got.map.shape == FRAME.shape[:2]
    assert np.array_equal(got.map[box.slices], expected.map)
    outside = got.map.copy()
    outside[box.slices] = 0
    assert not outside.any()
    x, y, width, height = expected.inspected
    assert got.inspected == (box.x + x, box.y + y, width, height)


@pytest.mark.parametrize(
    "roi", [(-1, 0, 5, 5), (0, 0, 132, 5), (0, 90, 5, 8), (3, 3, 0, 4), (3, 3, 4, -1), (0, 0, 0, 0)]
)
def test_regions_outside_the_frame_are_refused(engine, roi):
    with pytest.raises(adfast.FrameError, match="does not lie in the frame of 97x131 pixels"):
        engine.predict(FRAME, roi=roi)


def cells(mask: np.ndarray, inspected: adfast.Box, size: int = 16) -> np.ndarray:
    """Which elements of a network map do not count: those that half of the pixels or more cover."""
    part = mask[inspected.slices].astype(bool)
    rows = [i * part.shape[0] // size for i in range(size + 1)]
    columns = [i * part.shape[1] // size for i in range(size + 1)]
    return np.array(
        [
            [part[rows[i] : rows[i + 1], columns[j] : columns[j + 1]].mean() >= 0.5
             for j in range(size)]
            for i in range(size)
        ]
    )  # fmt: skip


@pytest.mark.parametrize("reduction", ["max", "mean", "pooled_max"])
def test_what_is_ignored_does_not_count(tiny_plan_with, reduction):
    engine = adfast.load(tiny_plan_with(reduction=reduction, pool=3))
    plain = engine.predict(FRAME)
    mask = np.zeros(FRAME.shape[:2], np.uint8)
    y, x = np.unravel_index(plain.map.argmax(), plain.map.shape)
    mask[max(0, y - 15) : y + 15, max(0, x - 20) : x + 20] = 7
    got = engine.predict(FRAME, ignore=mask)
    assert np.array_equal(got.map, np.where(mask, 0, plain.map))
    assert np.array_equal(got.network_map, plain.network_map)
    out = cells(mask, plain.inspected)
    assert 0 < out.sum() < out.size
    left = np.where(out, 0, plain.network_map).astype(np.float64)
    if reduction == "max":
        expected = left.max()
    elif reduction == "mean":
        expected = left.sum() / (~out).sum()
    else:
        expected = np.lib.stride_tricks.sliding_window_view(left, (3, 3)).mean(axis=(2, 3)).max()
    assert got.score == pytest.approx(expected, rel=1e-6)
    assert got.is_anomalous == (got.score > 0.05)


def test_masks_of_all_kinds_and_all_of_the_frame(engine):
    mask = np.zeros(FRAME.shape[:2], bool)
    mask[:, 40:90] = True
    expected = engine.predict(FRAME, ignore=mask)
    for other in (mask.view(np.uint8) * 255, np.asfortranarray(mask), mask[::-1].copy()[::-1]):
        got = engine.predict(FRAME, ignore=other)
        assert got.score == expected.score and np.array_equal(got.map, expected.map)
    nothing = engine.predict(FRAME, ignore=np.ones_like(mask))
    assert nothing.score == 0 and not nothing.map.any() and nothing.is_anomalous is False
    assert not nothing.network_map.any()
    for bad, message in (
        (mask[1:], r"shape \(96, 131\), expected the frame's \(97, 131\)"),
        (mask.astype(np.float32), "dtype float32, expected bool or uint8"),
        (mask[..., None], r"shape \(97, 131, 1\)"),
    ):
        with pytest.raises(adfast.FrameError, match=message):
            engine.predict(FRAME, ignore=bad)


def test_a_score_of_unknown_rule_cannot_be_masked(tiny_plan_with):
    engine = adfast.load(tiny_plan_with(reduction="model"))
    with pytest.raises(adfast.ArgumentError, match="how the map becomes the score"):
        engine.predict(FRAME, ignore=np.zeros(FRAME.shape[:2], bool))


def places(length: int, tile: int, inspected: tuple[int, int], overlap: int) -> list[int]:
    """Where tiles begin: as few as share `overlap` of what they inspect, spread evenly."""
    step = inspected[1] - inspected[0] - overlap
    count = -(-(length - tile) // step) + 1
    return [round((length - tile) * i / max(1, count - 1) + 1e-9) for i in range(count)]


def test_tiles_make_one_map(engine, tiled):
    whole = tiled.predict(FRAME)
    one = engine.predict(FRAME[: TILE[0], : TILE[1]])
    seen = one.inspected
    rows = places(97, TILE[0], (seen.y, seen.y + seen.height), OVERLAP)
    columns = places(131, TILE[1], (seen.x, seen.x + seen.width), OVERLAP)
    assert len(rows) > 2 and len(columns) > 2
    low = np.full(FRAME.shape[:2], np.inf, np.float32)
    high = np.zeros(FRAME.shape[:2], np.float32)
    count = np.zeros(FRAME.shape[:2], int)
    scores = []
    for y in rows:
        for x in columns:
            result = engine.predict(FRAME[y : y + TILE[0], x : x + TILE[1]])
            scores.append(result.score)
            part = np.s_[
                y + seen.y : y + seen.y + seen.height, x + seen.x : x + seen.x + seen.width
            ]
            inside = result.map[seen.slices]
            low[part] = np.minimum(low[part], inside)
            high[part] = np.maximum(high[part], inside)
            count[part] += 1
    assert whole.score == max(scores)
    assert whole.network_map is None
    assert np.array_equal(whole.map[count == 1], high[count == 1])  # to the bit
    several = count > 1
    assert several.any() and (count == 1).any()
    assert (whole.map[several] >= low[several] * (1 - 1e-5)).all()
    assert (whole.map[several] <= high[several] * (1 + 1e-5)).all()
    x, y, width, height = whole.inspected
    assert (count[y : y + height, x : x + width] > 0).all()
    assert not whole.map[count == 0].any()
    assert (x, y) == seen[:2] and count.sum(axis=0).astype(bool).sum() == width


def test_seams_are_blended(tiled):
    """Tiles that agree make a map without seams: a frame of one value has one value in its map."""
    flat = tiled.predict(np.full((97, 131), 90, np.uint8))
    x, y, width, height = flat.inspected
    once = tiled.predict(np.full(TILE, 90, np.uint8)).map
    # Away from the network's own borders.
    assert flat.map[y : y + height, x : x + width].max() <= once.max() * (1 + 1e-5)


@pytest.mark.parametrize("shape", [TILE, (20, 30), (1, 1)])
def test_frames_within_a_tile_are_not_divided(engine, tiled, shape):
    frame = FRAME[: shape[0], : shape[1]]
    got, expected = tiled.predict(frame), engine.predict(frame)
    assert np.array_equal(got.map, expected.map) and got.score == expected.score
    assert np.array_equal(got.network_map, expected.network_map)


def test_tiles_with_masks_regions_and_batches(tiled):
    plain = tiled.predict(FRAME).map
    mask = np.zeros(FRAME.shape[:2], bool)
    mask[:, 30:60] = True  # narrower than a tile
    assert np.array_equal(tiled.predict(FRAME, ignore=mask).map, np.where(mask, 0, plain))
    mask[:, :70] = True  # whole tiles, which are not computed; the last ones do not meet them
    got = tiled.predict(FRAME, ignore=mask)
    assert not got.map[mask].any() and np.array_equal(got.map[:, 120:], plain[:, 120:])
    box = adfast.Box(5, 7, 100, 80)
    roi = tiled.predict(FRAME, roi=box)
    alone = tiled.predict(FRAME[box.slices])
    assert np.array_equal(roi.map[box.slices], alone.map) and roi.score == alone.score
    small = FRAME[:30, :40]
    batch = tiled.predict_batch([small, FRAME, small])
    for result, frame in zip(batch, (small, FRAME, small), strict=True):
        assert np.array_equal(result.map, tiled.predict(frame).map)
    assert tiled.info["tile"] == (*TILE, OVERLAP)


def test_a_large_frame_takes_no_more_than_its_map_and_a_tile(tiny_plan_with):
    engine = adfast.load(tiny_plan_with(tile=(512, 512), overlap=64))
    frame = np.broadcast_to(np.uint8(77), (2000, 8000))
    result = engine.predict(frame)
    assert result.map.shape == (2000, 8000) and np.isfinite(result.map).all()
    assert result.map.max() > 0


@pytest.mark.parametrize(
    ("tile", "overlap"), [((0, 5), 0), ((5, 40000), 0), ((40, 50), 21), ((40, 50), -1)]
)
def test_impossible_tiles_are_refused(tiny_plan_with, tile, overlap):
    with pytest.raises(adfast.PlanError, match="tile"):
        adfast.load(tiny_plan_with(tile=tile, overlap=overlap))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (37, 53), (64, 64)])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.6])
def test_regions_are_connected_components(engine, shape, share):
    values = RANDOM.random(shape, dtype=np.float32)
    result = result_with(engine, values)
    threshold = float(np.quantile(values, 1 - share))
    labels, count = ndimage.label(values > threshold, structure=np.ones((3, 3)))
    regions = result.regions(threshold)
    assert len(regions) == count
    assert [r.peak for r in regions] == sorted((r.peak for r in regions), reverse=True)
    boxes = ndimage.find_objects(labels)
    for region in regions:
        x, y = region.peak_at
        label = labels[y, x]
        own = labels == label
        assert region.box.slices == boxes[label - 1]
        assert region.area == own.sum()
        assert region.peak == values[own].max() == values[y, x]
        assert region.mean == pytest.approx(values[own].mean(), rel=1e-5)


def result_with(engine, values: np.ndarray) -> adfast.Result:
    shown = engine.predict(np.zeros((8, 8), np.uint8))
    return adfast.Result(
        shown.score, values, None, adfast.Box(0, 0, *values.shape[::-1]), 0.5, shown.timings
    )


def test_regions_can_be_sifted(engine):
    values = np.zeros((20, 30), np.float32)
    values[2:4, 2:4] = 0.8  # four pixels
    values[10, 5:25] = 0.6  # a long weak line
    values[18, 29] = 3.0  # one strong pixel
    values[0, 0] = np.nan
    result = result_with(engine, values)
    assert [r.area for r in result.regions()] == [1, 4, 20]
    assert [r.area for r in result.regions(min_area=2)] == [4, 20]
    assert [r.area for r in result.regions(min_peak=0.7)] == [1, 4]
    own = np.full(values.shape, 0.5, np.float32)
    own[:, 20:] = 5.0
    assert [r.area for r in result.regions(own)] == [4, 15]
    with pytest.raises(adfast.ArgumentError, match="of the map's shape"):
        result.regions(own[1:])
    uncalibrated = adfast.Result(0.0, values, None, result.inspected, None, result.timings)
    with pytest.raises(adfast.ArgumentError, match="not calibrated"):
        uncalibrated.regions()
