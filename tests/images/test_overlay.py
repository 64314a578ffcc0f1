"""Colours, overlays and the verdict band."""

import numpy as np
import pytest

from adfast import colormap, overlay
from adfast.errors import FrameError


def test_colours_rise_evenly_in_lightness():
    table = colormap.table().astype(float) / 255
    assert table.shape == (256, 3)
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = 116 * np.cbrt(luminance) - 16
    assert (np.diff(luminance) > -0.004).all()
    smooth = lightness[8::8]
    assert np.diff(smooth).min() > 0.3 * np.diff(smooth).mean()


def test_colorize_clips_and_survives_what_is_not_finite():
    values = np.array([[-1.0, 0.0, 1.0], [2.0, np.nan, np.inf]])
    colours = colormap.colorize(values)
    table = colormap.table()
    np.testing.assert_array_equal(colours[:, :, 0], table[[[0, 0, 255], [255, 0, 255]], 0])


@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (64, 33, 3), (700, 5)])
def test_overlay_of_any_size(shape):
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, shape, dtype=np.uint8)
    map_ = rng.random(shape[:2]).astype(np.float32)
    picture = overlay.overlay(frame, map_, scale=1.0, mask=map_ > 0.5, truth=map_ > 0.9)
    assert picture.shape == (*shape[:2], 3) and picture.dtype == np.uint8
    band = overlay.with_verdict(picture, 1234.5678, 0.1, True)
    assert band.shape[1] == shape[1] and band.shape[0] > shape[0]
    np.testing.assert_array_equal(band[: shape[0]], picture)


def test_a_quiet_map_leaves_a_grey_frame_alone_and_a_loud_one_colours_it():
    frame = np.full((8, 8), 100, np.uint8)
    map_ = np.zeros((8, 8), np.float32)
    map_[2, 3] = 2.0
    picture = overlay.overlay(frame, map_, scale=2.0)
    assert (picture[0] == 100).all()
    assert picture[2, 3, 0] > picture[2, 3, 2] > 100  # pale yellow


def test_overlay_refuses_a_map_of_another_size():
    with pytest.raises(FrameError, match="the map is"):
        overlay.overlay(np.zeros((4, 5), np.uint8), np.zeros((5, 4)), scale=1.0)


def test_full_scale():
    map_ = np.array([[0.5, 3.0]], np.float32)
    assert overlay.full_scale(map_, 2.0) == 4.0
    assert overlay.full_scale(map_, None) == 3.0
    assert overlay.full_scale(np.zeros((2, 2)), None) == 1.0
    assert overlay.full_scale(map_, 0.0) == 3.0


def test_edges_are_inside_and_thin():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    assert overlay.edge(mask).sum() == 16
    assert overlay.edge(mask, 2).sum() == 24
    assert not (overlay.edge(mask) & ~mask).any()
    assert overlay.edge(np.ones((3, 3), bool)).sum() == 8


def test_shrink_averages_blocks():
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    np.testing.assert_array_equal(overlay.shrink(picture, 6), picture)
    assert overlay.shrink(picture, 3).shape == (2, 3, 3)
    assert overlay.shrink(np.zeros((1, 100, 3), np.uint8), 10).shape == (1, 10, 3)


@pytest.mark.parametrize("low", [0.0, -3.0, 5.0])
def test_sixteen_bits_hold_a_map(low):
    map_ = (low + np.random.default_rng(0).random((5, 7))).astype(np.float32)
    stored, scale, offset = overlay.map_to_uint16(map_)
    np.testing.assert_allclose(offset + scale * stored, map_, atol=scale)
    flat, scale, offset = overlay.map_to_uint16(np.full((2, 2), low, np.float32))
    assert (offset + scale * flat == low).all()
    with pytest.raises(FrameError, match="not finite"):
        overlay.map_to_uint16(np.array([[np.nan]]))
