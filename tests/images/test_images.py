"""Reading and writing images: our readers against Pillow, odd sizes, and hostile files."""

import io
import struct
import zlib

import numpy as np
import pytest

from adfast import images
from adfast.errors import DataError, FrameError


@pytest.fixture(params=["own", "pillow"])
def reader(request, monkeypatch):
    """Run a test with our own PNG decoder and with Pillow's."""
    if request.param == "own":
        monkeypatch.setattr(images, "_has_pillow", lambda: False)
    else:
        pytest.importorskip("PIL")
    return images.read_image


def picture(shape, seed=0):
    """Smooth colours with noise, so that every row filter has its turn."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, shape[1])[None, :] + np.linspace(0, 90, shape[0])[:, None]
    extra = shape[2:]
    noise = rng.integers(0, 40, shape)
    return (ramp.reshape(*ramp.shape, *[1] * len(extra)) + noise).astype(np.uint8)


def png(width, height, depth, colour, raw, *, interlace=0, palette=None):
    """Assemble a PNG from filtered rows."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))]
    if palette is not None:
        chunks.append((b"PLTE", palette))
    chunks += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (13, 31), (5, 3, 3), (33, 17, 3)])
def test_png_round_trip(tmp_path, reader, shape):
    array = picture(shape)
    images.write_png(tmp_path / "a.png", array[::-1])
    np.testing.assert_array_equal(reader(tmp_path / "a.png"), array[::-1])
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [4, 3, 2, 1, 0], [0, 4]])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_row_filter_decodes_as_in_pillow(tmp_path, filters, channels):
    pytest.importorskip("PIL")
    rng = np.random.default_rng(len(filters))
    for height, width in ((1, 1), (1, 9), (9, 1), (8, 5), (5, 12)):
        rows = rng.integers(0, 256, (height, 1 + width * channels), dtype=np.uint8)
        rows[:, 0] = [filters[y % len(filters)] for y in range(height)]
        colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        path = tmp_path / "a.png"
        path.write_bytes(png(width, height, 8, colour, rows.tobytes()))
        expected = images.read_image(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(images, "_has_pillow", lambda: False)
            np.testing.assert_array_equal(images.read_image(path), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_modes_read_alike_with_and_without_pillow(tmp_path, mode):
    pil = pytest.importorskip("PIL.Image")
    source = pil.fromarray(picture((21, 19, 3))).convert(mode)
    source.save(tmp_path / "a.png")
    with_pillow = images.read_image(tmp_path / "a.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "_has_pillow", lambda: False)
        own = images.read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(own, with_pillow)
    assert own.flags.c_contiguous and own.dtype == np.uint8
    assert own.ndim == (3 if mode in ("P", "RGB", "RGBA") else 2)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("width", [1, 5, 8, 9])
def test_few_bits_per_pixel(tmp_path, reader, depth, width):
    rng = np.random.default_rng(depth)
    rows = rng.integers(0, 256, (3, 1 + (width * depth + 7) // 8), dtype=np.uint8)
    rows[:, 0] = 0
    bits = np.unpackbits(rows[:, 1:], axis=1)[:, : width * depth].reshape(3, width, depth)
    values = (bits * (1 << np.arange(depth)[::-1])).sum(axis=2)
    (tmp_path / "grey.png").write_bytes(png(width, 3, depth, 0, rows.tobytes()))
    np.testing.assert_array_equal(reader(tmp_path / "grey.png"), values * (255 // (2**depth - 1)))
    palette = rng.integers(0, 256, (2**depth, 3), dtype=np.uint8)
    (tmp_path / "p.png").write_bytes(
        png(width, 3, depth, 3, rows.tobytes(), palette=palette.tobytes())
    )
    np.testing.assert_array_equal(reader(tmp_path / "p.png"), palette[values])


def test_sixteen_bit_and_interlaced_png_are_refused_or_read_by_pillow(tmp_path, monkeypatch):
    path = tmp_path / "deep.png"
    images.write_png(path, np.arange(12, dtype=np.uint16).reshape(3, 4))
    with pytest.raises(FrameError, match=r"deep\.png: a 16-bit PNG"):
        images.read_image(path)
    path.write_bytes(png(1, 1, 8, 0, b"\0\x07", interlace=1))
    monkeypatch.setattr(images, "_has_pillow", lambda: False)
    with pytest.raises(FrameError, match="interlaced"):
        images.read_image(path)


@pytest.mark.parametrize("kind", ["PPM", "PNG", "BMP", "TIFF"])
def test_lossless_kinds_of_pillow(tmp_path, kind):
    pil = pytest.importorskip("PIL.Image")
    for array in (picture((6, 5)), picture((6, 5, 3))):
        pil.fromarray(array).save(tmp_path / f"a.{kind.lower()}", kind)
        np.testing.assert_array_equal(images.read_image(tmp_path / f"a.{kind.lower()}"), array)


def test_jpeg_without_pillow_names_the_extra(tmp_path, monkeypatch):
    pil = pytest.importorskip("PIL.Image")
    pil.fromarray(picture((16, 16))).save(tmp_path / "a.jpg")
    assert images.read_image(tmp_path / "a.jpg").shape == (16, 16)
    monkeypatch.setattr(images, "_has_pillow", lambda: False)
    with pytest.raises(FrameError, match=r'a\.jpg: .*pip install "adfast\[images\]"'):
        images.read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"P5\n3 2\n255\n" + bytes(range(6)), [[0, 1, 2], [3, 4, 5]]),
        (b"P5 # a comment\n# another 9 9\n2 1 # more\n15\n\x00\x0f", [[0, 255]]),
        (b"P2\n2 2\n255\n1 2\n3 4\n", [[1, 2], [3, 4]]),
        (b"P6\n1 1\n255\n\x01\x02\x03", [[[1, 2, 3]]]),
        (b"P3 1 1 255 7 8 9", [[[7, 8, 9]]]),
    ],
)
def test_pnm(tmp_path, data, expected):
    (tmp_path / "a.pnm").write_bytes(data)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.pnm"), expected)


def test_npy(tmp_path):
    array = picture((5, 4, 3))
    np.save(tmp_path / "a.npy", np.asfortranarray(array))
    read = images.read_image(tmp_path / "a.npy")
    np.testing.assert_array_equal(read, array)
    assert read.flags.c_contiguous and read.flags.writeable
    for bad in (array.astype(np.float32), array[..., :2], np.zeros(3, np.uint8), np.array([{}])):
        np.save(tmp_path / "b.npy", bad, allow_pickle=True)
        with pytest.raises(FrameError, match=r"b\.npy"):
            images.read_image(tmp_path / "b.npy")


def test_every_truncation_and_many_flips_are_errors_never_crashes(tmp_path, reader):
    np.save(tmp_path / "x.npy", picture((4, 5)))
    sources = {
        "png": images.encode_png(picture((9, 7, 3))),
        "pnm": b"P5\n3 2\n255\n" + bytes(range(6)),
        "npy": (tmp_path / "x.npy").read_bytes(),
    }
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    for kind, data in sources.items():
        for length in range(len(data)):
            path.write_bytes(data[:length])
            with pytest.raises(FrameError, match=str(path)):
                reader(path)
        for _ in range(150):
            broken = bytearray(data)
            broken[rng.integers(len(data))] ^= 1 << rng.integers(8)
            path.write_bytes(broken)
            try:
                reader(path)
                assert kind != "png"  # every byte of a PNG is under a CRC or a check
            except FrameError as error:
                assert str(path) in str(error)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (png(2**31 - 1, 2**31 - 1, 8, 2, b""), "are accepted"),
        (png(16384, 16384, 8, 2, b"\0" * 99), "fewer pixels"),
        (png(0, 5, 8, 2, b""), "declares 0 x 5"),
        (png(2, 2, 8, 0, b"\0" * 6 + b"more"), None),
        (png(2, 2, 8, 0, b"\0" * 5), None),
        (png(1, 1, 8, 0, b"\x09\x07"), None),
        (png(1, 1, 8, 5, b"\0\0"), "colour type 5"),
        (png(1, 1, 8, 3, b"\0\0"), "palette"),
        (b"P5\n99999999 99999999\n255\n", "are accepted"),
        (b"P5\n2 2\n65535\n12345678", "a 16-bit PNM"),
        (b"P2\n1 1\n255\n300", "outside"),
        (
            b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, "
            b"'shape': (9999999999, 9999999999), }",
            "NPY",
        ),
        (b"", "empty"),
        (b"hello", "image"),
    ],
)
def test_hostile_files(tmp_path, reader, data, word):
    path = tmp_path / "bad.bin"
    path.write_bytes(data)
    try:
        reader(path)
        # Pillow forgives surplus and missing pixels in some streams; our decoder does not.
        assert word is None and images._has_pillow()
    except FrameError as error:
        assert "bad.bin" in str(error) and (word or "") in str(error)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FrameError, match="does not exist"):
        images.read_image(tmp_path / "none.png")
    with pytest.raises(FrameError, match="is not a file"):
        images.read_image(tmp_path)


def test_list_images(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "a/3.pgm", "a/.hidden.png", ".git/4.png", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listed = images.list_images([tmp_path / "b/2.png", tmp_path])
    assert [p.relative_to(tmp_path).as_posix() for p in listed] == ["b/2.png", "a/3.pgm", "b/1.JPG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in this folder"):
        images.list_images([tmp_path / "empty"])
    with pytest.raises(DataError, match="no such file"):
        images.list_images([tmp_path / "nothing"])


def test_encode_png_refuses_what_it_cannot_hold():
    for bad in (np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2)), np.zeros((0, 3), np.uint8)):
        with pytest.raises(FrameError, match="encode_png"):
            images.encode_png(bad)


def test_a_png_is_read_by_pillow_as_written():
    pil = pytest.importorskip("PIL.Image")
    deep = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    np.testing.assert_array_equal(np.asarray(pil.open(io.BytesIO(images.encode_png(deep)))), deep)


@pytest.mark.parametrize("name", ["a.png", "a.pgm", "a.ppm", "a.npy", "a.bmp", "a.jpg"])
def test_a_header_tells_the_size(tmp_path, name):
    pil = pytest.importorskip("PIL.Image")
    path = tmp_path / name
    pixels = picture((13, 31) if name == "a.pgm" else (13, 31, 3))
    if name == "a.npy":
        np.save(path, pixels)
    else:
        pil.fromarray(pixels).save(path)
    assert images.image_size(path) == images.read_image(path).shape[:2] == (13, 31)
    # Nothing is decoded: the header is enough.
    if name != "a.npy":
        path.write_bytes(path.read_bytes()[: 700 if name == "a.jpg" else 64])
        assert images.image_size(path) == (13, 31)
        with pytest.raises(FrameError):
            images.read_image(path)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"no image", "not a readable image"),
        (b"\x89PNG\r\n\x1a\n", "the header is missing"),
        (png(3, 3, 16, 0, bytes(21)), "16-bit"),
        (png(2**15, 2**15, 8, 0, b""), "are accepted"),
        (png(0, 3, 8, 0, b""), "declares 0 x 3"),
        (b"P5 3 ", "height is missing"),
        (b"P5 3 3 65535\n", "a 16-bit PNM"),
        (b"\x93NUMPY broken", "NPY"),
    ],
)
def test_a_header_that_no_image_has(tmp_path, data, word):
    pytest.importorskip("PIL")
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    with pytest.raises(FrameError, match=word):
        images.image_size(path)
    with pytest.raises(DataError, match=r"(?s)these: 2 problems\n.*a\.bin.*b\.png: does not exist"):
        images.check_images([path, tmp_path / "b.png"], "these")


def test_problems_are_listed_up_to_ten():
    images.refuse([], "nothing")
    with pytest.raises(DataError) as error:
        images.refuse([f"problem {k}" for k in range(12)], "set")
    text = str(error.value)
    assert "set: 12 problems" in text and "problem 9\n" in text and "and 2 more" in text
    assert "problem 10" not in text
