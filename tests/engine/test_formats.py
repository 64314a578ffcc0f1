"""Pixel formats of cameras: bits by name, mosaics, and what does not fit them."""

from __future__ import annotations

import numpy as np
import pytest

import adfast

RANDOM = np.random.default_rng(3)
COLOURS = {"RG": "rggb", "GR": "grbg", "GB": "gbrg", "BG": "bggr"}


@pytest.fixture(scope="module")
def engine(tiny_plan):
    return adfast.load(tiny_plan, precision="f32")


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_values_span_the_bits_of_the_format(engine, bits):
    # Every value is 255ths of the range, so that 8 bits say the same.
    grey = RANDOM.integers(0, 256, (40, 53), dtype=np.uint8)
    top = 2**bits - 1
    deep = np.round(grey.astype(np.float64) * top / 255).astype(np.uint16)
    got = engine.predict(deep, pixel_format=f"Mono{bits}")
    # 255 divides 2^16 - 1 only: elsewhere the values are half a step off at most.
    expected = engine.predict(grey)
    tolerance = 1e-6 if bits == 16 else 2e-2
    np.testing.assert_allclose(got.map, expected.map, atol=tolerance * expected.map.max())


def test_dark_deep_frames_are_not_stretched(engine):
    """Bit depth is by format, never by value: 12 bits in a Mono16 frame are dark."""
    frame = RANDOM.integers(0, 4096, (30, 31), dtype=np.uint16)
    dark = engine.predict(frame, pixel_format="Mono16").map
    bright = engine.predict(frame, pixel_format="Mono12").map
    assert not np.allclose(dark, bright)
    black = engine.predict(np.zeros((30, 31), np.uint8)).map
    assert np.abs(dark - black).max() < np.abs(bright - black).max()


def layouts(frame: np.ndarray):
    yield frame[::-1]
    yield frame[:, ::-1]
    yield frame[::2, ::3]
    yield np.asfortranarray(frame)
    if frame.dtype == np.uint16:
        odd = np.frombuffer(b"-" + frame.tobytes(), np.uint8)[1:]
        yield odd.view(np.uint16).reshape(frame.shape)


@pytest.mark.parametrize("pixel_format", ["Mono12", "BayerRG8", "Mono8"])
def test_strides_of_all_formats(engine, pixel_format):
    kind, top = (np.uint16, 4096) if pixel_format == "Mono12" else (np.uint8, 256)
    frame = RANDOM.integers(0, top, (36, 45)).astype(kind)
    for given in layouts(frame):
        got = engine.predict(given, pixel_format=pixel_format)
        expected = engine.predict(given.copy(order="C"), pixel_format=pixel_format)
        assert np.array_equal(got.map, expected.map)


def demosaiced(mosaic: np.ndarray, pattern: str) -> np.ndarray:
    """Bilinear by definition: means of the nearest pixels of each colour, the border mirrored."""
    padded = np.pad(mosaic.astype(int), 1, mode="reflect" if min(mosaic.shape) > 1 else "edge")
    places = np.array(list(pattern)).reshape(2, 2)
    result = np.zeros((*mosaic.shape, 3), np.uint8)
    for y in range(mosaic.shape[0]):
        for x in range(mosaic.shape[1]):
            around = padded[y : y + 3, x : x + 3]
            names = places[np.ix_(np.arange(y - 1, y + 2) % 2, np.arange(x - 1, x + 2) % 2)]
            for c, name in enumerate("rgb"):
                if names[1, 1] == name:
                    result[y, x, c] = around[1, 1]
                    continue
                # Direct neighbours if any has the colour, else the corners.
                cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
                near = names == name
                chosen = around[near & cross] if (near & cross).any() else around[near]
                count = len(chosen)
                result[y, x, c] = (chosen.sum() + count // 2) // count
    return result


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("shape", [(2, 2), (3, 4), (8, 9), (33, 42)])
def test_mosaics_are_interpolated(engine, name, shape):
    mosaic = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    got = engine.predict(mosaic, pixel_format=f"Bayer{name}8")
    expected = engine.predict(demosaiced(mosaic, COLOURS[name]))
    np.testing.assert_allclose(got.map, expected.map, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (1, 0), (0, 1), (3, 5)])
def test_a_part_of_a_mosaic_keeps_its_colours(engine, x, y):
    frame = np.zeros((40, 40, 3), np.uint8)
    frame[..., 0], frame[..., 1], frame[..., 2] = 200, 120, 30
    mosaic = np.zeros((40, 40), np.uint8)
    for place, colour in enumerate("rggb"):
        mosaic[place // 2 :: 2, place % 2 :: 2] = frame[0, 0, "rgb".index(colour)]
    roi = (x, y, 20, 22)
    got = engine.predict(mosaic, pixel_format="BayerRG8", roi=roi)
    expected = engine.predict(frame, roi=roi)
    np.testing.assert_allclose(got.map, expected.map, rtol=1e-5, atol=1e-7)


def test_what_does_not_fit_the_format_is_refused(engine):
    grey, colour = np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8)
    for image, pixel_format, error, message in (
        (grey.astype(np.uint16), "", adfast.FrameError, "uint16.*pixel_format='Mono12'"),
        (grey, "Mono12", adfast.FrameError, "uint8, expected uint16 for Mono12"),
        (grey.astype(">u2"), "Mono12", adfast.FrameError, "expected uint16 for Mono12"),
        (
            colour,
            "Mono8",
            adfast.FrameError,
            "for grey.*format is Mono8",
        ),
        (
            grey,
            "RGB8",
            adfast.FrameError,
            "for colour; the format is RGB8",
        ),
        (colour, "BayerRG8", adfast.FrameError, "the format is BayerRG8"),
        (grey, "Mono10p", adfast.ArgumentError, "'Mono10p', expected one of Mono8, Mono10"),
    ):
        with pytest.raises(error, match=message):
            engine.predict(image, pixel_format=pixel_format)
    assert set(adfast.PIXEL_FORMATS) >= {"Mono8", "Mono12", "BayerRG8", "BGR8"}


class OnlyDlpack:
    def __init__(self, array: np.ndarray):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class OnCard(OnlyDlpack):
    def __dlpack__(self, **options):
        raise BufferError("it lies on a card")

    def __dlpack_device__(self):
        return 2, 0  # kDLCUDA


class OnlyInterface:
    def __init__(self, array: np.ndarray):
        self.array = array
        self.__array_interface__ = array.__array_interface__


def test_every_protocol_of_arrays_is_taken(engine):
    frame = RANDOM.integers(0, 256, (31, 42, 3), dtype=np.uint8)
    expected = engine.predict(frame).map
    fixed = frame.copy()
    fixed.setflags(write=False)
    strided = np.repeat(frame, 2, axis=1)[:, ::2]
    for given in (
        OnlyDlpack(frame),
        OnlyDlpack(strided),
        OnlyInterface(frame),
        OnlyInterface(strided),
        OnlyInterface(fixed),
        memoryview(fixed),
        fixed,
    ):
        assert np.array_equal(engine.predict(given).map, expected)
    deep = RANDOM.integers(0, 4096, (31, 42), dtype=np.uint16)
    expected = engine.predict(deep, pixel_format="Mono12").map
    for given in (OnlyDlpack(deep), OnlyInterface(deep), memoryview(deep)):
        assert np.array_equal(engine.predict(given, pixel_format="Mono12").map, expected)
    with pytest.raises(adfast.FrameError, match="OnCard does not hand.*lies on a card"):
        engine.predict(OnCard(frame))
