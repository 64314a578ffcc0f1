"""Image files of 16 bits a sample: read when their pixel format is named, refused when not."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

import adfast
from adfast import images
from adfast.errors import DataError, FrameError
from adfast.images import DEEP_FORMATS, read_image, to_255, to_uint8, write_png

DEEP = np.random.default_rng(7).integers(0, 2**16, (7, 9), dtype=np.uint16)
DEEP[0, :3] = 0, 4095, 65535  # Mono12's ends, and a value beyond


@pytest.fixture(params=["own", "pillow"])
def reader(request, monkeypatch):
    """Run a test with our own PNG decoder and with Pillow's."""
    if request.param == "own":
        monkeypatch.setattr(images, "_has_pillow", lambda: False)
    else:
        pytest.importorskip("PIL")
    return read_image


def pnm(array: np.ndarray, largest: int, kind: str = "P5") -> bytes:
    header = f"{kind}\n{array.shape[1]} {array.shape[0]}\n{largest}\n".encode()
    return header + (array.astype(">u2").tobytes() if kind in ("P5", "P6") else
                     " ".join(map(str, array.ravel())).encode())  # fmt: skip


def tiff(array: np.ndarray) -> bytes:
    """A plain TIFF of 16 bits, little-endian; colour where the array has three axes."""
    channels = 1 if array.ndim == 2 else array.shape[2]
    height, width = array.shape[:2]
    data, entries, place = array.astype("<u2").tobytes(), 9, 8 + 2 + 9 * 12 + 4
    bits = struct.pack("<3H", 16, 16, 16)
    tags = [(256, 1, width), (257, 1, height), (258, channels, 16 if channels == 1 else place)]
    tags += [(259, 1, 1), (262, 1, 1 if channels == 1 else 2), (273, 1, place + len(bits))]
    tags += [(277, 1, channels), (278, 1, height), (279, 1, len(data))]
    table = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, count, value)
        for tag, count, value in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, entries) + table + bytes(4) + bits + data


def test_the_engine_knows_the_formats():
    assert set(DEEP_FORMATS) <= set(adfast.PIXEL_FORMATS)


@pytest.mark.parametrize("name", DEEP_FORMATS)
def test_png_round_trip(tmp_path, reader, name):
    path = tmp_path / "deep.png"
    write_png(path, DEEP[::-1])
    found = reader(path, name)
    np.testing.assert_array_equal(found, DEEP[::-1])
    assert found.dtype == np.uint16 and found.flags.c_contiguous and found.dtype.isnative
    assert images.image_size(path, name) == DEEP.shape
    images.check_images([path], "these", name)


@pytest.mark.parametrize("row_filter", range(5))
def test_every_row_filter_of_16_bits_decodes_as_in_pillow(tmp_path, monkeypatch, row_filter):
    pytest.importorskip("PIL")
    path = tmp_path / "deep.png"
    write_png(path, DEEP)
    data = path.read_bytes()
    body = np.random.default_rng(row_filter).integers(0, 256, (7, 19), dtype=np.uint8)
    body[:, 0] = row_filter
    packed = zlib.compress(body.tobytes())
    chunk = struct.pack(">I", len(packed)) + b"IDAT" + packed
    chunk += struct.pack(">I", zlib.crc32(b"IDAT" + packed))
    path.write_bytes(data[:33] + chunk + data[-12:])
    by_pillow = read_image(path, "Mono16")
    monkeypatch.setattr(images, "_has_pillow", lambda: False)
    np.testing.assert_array_equal(read_image(path, "Mono16"), by_pillow)


@pytest.mark.parametrize("largest", [4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P5"])
def test_pgm_of_the_camera_s_white_or_of_any_16_bits(tmp_path, kind, largest):
    path = tmp_path / "deep.pgm"
    array = np.minimum(DEEP, largest)
    path.write_bytes(pnm(array, largest, kind))
    np.testing.assert_array_equal(read_image(path, "Mono12"), array)
    assert images.image_size(path, "Mono12") == DEEP.shape


@pytest.mark.parametrize("order", ["<", ">"])
def test_npy_of_both_byte_orders(tmp_path, order):
    path = tmp_path / "deep.npy"
    np.save(path, DEEP.astype(order + "u2"))
    found = read_image(path, "Mono10")
    np.testing.assert_array_equal(found, DEEP)
    assert found.dtype.isnative and found.flags.writeable
    assert images.image_size(path, "Mono10") == DEEP.shape


def test_tiff(tmp_path):
    pytest.importorskip("PIL")
    path = tmp_path / "deep.tiff"
    path.write_bytes(tiff(DEEP))
    np.testing.assert_array_equal(read_image(path, "Mono16"), DEEP)
    path.write_bytes(tiff(np.stack([DEEP] * 3, axis=2)))
    for name in ("", "Mono16"):  # Pillow would give the upper eight bits
        with pytest.raises(FrameError, match=r"deep\.tiff: a 16-bit TIFF file"):
            read_image(path, name)


def test_without_a_name_it_is_refused_and_the_error_names_the_option(tmp_path):
    pytest.importorskip("PIL")
    write_png(tmp_path / "a.png", DEEP)
    np.save(tmp_path / "a.npy", DEEP)
    (tmp_path / "a.pgm").write_bytes(pnm(DEEP, 65535))
    (tmp_path / "a.tif").write_bytes(tiff(DEEP))
    for path in sorted(tmp_path.iterdir()):
        for look in (read_image, images.image_size):
            with pytest.raises(FrameError, match=r"a 16-bit.*Mono10, Mono12.*--pixel-format"):
                look(path)
        with pytest.raises(DataError, match="these: 1 problem\n.*--pixel-format"):
            images.check_images([path], "these")


def test_another_depth_than_the_named_one_is_refused(tmp_path):
    pytest.importorskip("PIL")
    small = (DEEP >> 8).astype(np.uint8)
    write_png(tmp_path / "a.png", small)
    write_png(tmp_path / "b.png", np.stack([small] * 3, axis=2))
    np.save(tmp_path / "c.npy", small)
    (tmp_path / "d.pgm").write_bytes(b"P5\n1 1\n255\n\0")
    from PIL import Image

    Image.fromarray(small).save(tmp_path / "e.bmp")
    for path in sorted(tmp_path.iterdir()):
        for look in (read_image, images.image_size):
            with pytest.raises(FrameError, match=r"an? 8-bit.*16 bits a sample for Mono12"):
                look(path, "Mono12")
    (tmp_path / "f.pgm").write_bytes(pnm(DEEP, 1023))
    with pytest.raises(FrameError, match="declares 1023 as its largest value, Mono12 has 4095"):
        read_image(tmp_path / "f.pgm", "Mono12")
    np.save(tmp_path / "g.npy", DEEP.astype(np.int16))
    with pytest.raises(FrameError, match="int16"):
        read_image(tmp_path / "g.npy", "Mono12")
    (tmp_path / "h.ppm").write_bytes(pnm(np.repeat(DEEP, 3, axis=1), 65535, "P6"))
    with pytest.raises(FrameError, match="not plain grey"):
        read_image(tmp_path / "h.ppm", "Mono16")


def test_truncated_files_are_errors(tmp_path, reader):
    write_png(tmp_path / "a.png", DEEP)
    files = {"a.png": (tmp_path / "a.png").read_bytes(), "a.pgm": pnm(DEEP, 65535)}
    for name, data in files.items():
        for end in range(len(data)):
            (tmp_path / name).write_bytes(data[:end])
            with pytest.raises(FrameError, match=name):
                reader(tmp_path / name, "Mono16")


@pytest.mark.parametrize(("name", "bits"), DEEP_FORMATS.items())
def test_values_are_scaled_by_the_format_alone(name, bits):
    top = 2**bits - 1
    frame = np.array([[0, 1, top // 2, top]], np.uint16)
    scaled = to_255(frame, name)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, frame * (255 / top), rtol=1e-6)
    np.testing.assert_array_equal(to_uint8(frame, name), [[0, round(255 / top), 127, 255]])
    if bits < 16:  # beyond: not clipped for the network, white to the eye
        assert to_255(np.array([[2 * top]], np.uint16), name) == pytest.approx(510)
        assert to_uint8(np.array([[2 * top]], np.uint16), name) == 255
    small = np.zeros((2, 2), np.uint8)
    assert to_255(small, "") is small and to_uint8(small, "Mono8") is small
