"""What other programs build against: the C layout, pkg-config, C#, OpenCV, signed plans."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import adfast
from adfast import _core, cli

ROOT = Path(__file__).parent.parent.parent
CC = os.environ.get("CC", "cc")
CXX = os.environ.get("CXX", "c++")

spec = importlib.util.spec_from_file_location("layout", ROOT / "csrc/c_api/layout.py")
layout = importlib.util.module_from_spec(spec)
spec.loader.exec_module(layout)


def run(*command, **options) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_layout_of_the_c_interface_is_the_recorded_one():
    run(sys.executable, ROOT / "csrc/c_api/layout.py")


def test_the_list_of_symbols_is_the_header():
    symbols = (ROOT / "csrc/c_api/symbols.txt").read_text().split()
    assert symbols == sorted(layout.functions(layout.bare_header()))


def test_a_field_that_moves_is_noticed(monkeypatch, tmp_path, capsys):
    text = layout.HEADER.read_text()
    folder = tmp_path / "include/adfast"
    folder.mkdir(parents=True)
    (folder / "adfast.h").write_text(text.replace("float score; ", "double score; "))
    monkeypatch.setattr(layout, "HERE", tmp_path / "c_api")
    monkeypatch.setattr(layout, "HEADER", folder / "adfast.h")
    monkeypatch.setattr(sys, "argv", ["layout.py"])
    assert layout.main() == 1
    assert "+adfast_result.score at 24, 8 bytes" in capsys.readouterr().out


@pytest.fixture(scope="module")
def pkg_config():
    """Folder of the installed adfast.pc."""
    tool = shutil.which("pkg-config")
    if tool is None:
        pytest.skip("pkg-config is not installed")
    folder = Path(run(sys.executable, "-m", "adfast.cli", "--pkg-config-dir").strip())
    assert (folder / "adfast.pc").is_file()
    return folder


def flags(folder: Path) -> list[str]:
    environment = os.environ | {"PKG_CONFIG_PATH": str(folder)}
    return run("pkg-config", "--cflags", "--libs", "adfast", env=environment).split()


def expected_line(plan, frame) -> str:
    result = adfast.load(plan, device="cpu").predict(frame)
    verdict = "anomalous" if result.is_anomalous else "good"
    return f"score {result.score:.9g} threshold {np.float32(result.threshold):.9g} {verdict}\n"


@pytest.fixture
def raw_frame(tmp_path):
    frame = np.random.default_rng(3).integers(0, 256, (48, 64), dtype=np.uint8)
    (tmp_path / "frame.raw").write_bytes(frame.tobytes())
    return frame


def test_pkg_config(pkg_config, tiny_plan, raw_frame, tmp_path):
    version = run(
        "pkg-config", "--modversion", "adfast",
        env=os.environ | {"PKG_CONFIG_PATH": str(pkg_config)},
    )  # fmt: skip
    assert version.strip() == re.match(r"[\d.]+", adfast.__version__)[0]
    run(CC, ROOT / "examples/inspect.c", *flags(pkg_config), "-o", tmp_path / "inspect")
    rest = (tiny_plan, tmp_path / "frame.raw", 64, 48)
    assert run(tmp_path / "inspect", *rest) == expected_line(tiny_plan, raw_frame)


def test_pkg_config_of_a_moved_package(pkg_config, tmp_path):
    """The whole tree somewhere else: nothing in it is absolute."""
    prefix = tmp_path / "moved"
    for folder in ("include", "lib"):
        shutil.copytree(pkg_config.parent.parent / folder, prefix / folder)
    program = tmp_path / "inspect"
    run(CC, ROOT / "examples/inspect.c", *flags(prefix / "lib/pkgconfig"), "-o", program)
    line = next(line for line in run("ldd", program).splitlines() if "libadfast.so" in line)
    assert os.path.realpath(line.split()[2]) == os.path.realpath(prefix / "lib/libadfast.so")


def library_folder() -> Path:
    return Path(_core.__file__).parent / "lib"


CS = (ROOT / "examples/csharp/Adfast.cs").read_text()


def in_words(name: str) -> str:
    """ADFAST_ERROR_PLAN as C# writes it: ErrorPlan."""
    return "".join(word.capitalize() for word in name.split("_")[1:])


def test_the_declarations_for_csharp_are_those_of_the_header():
    header = layout.bare_header()
    declared = re.findall(r"public static extern \w+ (adfast_\w+)\(", CS)
    assert sorted(declared) == sorted(layout.functions(header))
    fields = {
        name: re.findall(r"public [\w\[\]]+ (\w+);", body)
        for name, body in re.findall(r"public struct (adfast_\w+) \{(.*?)\n\}", CS, re.S)
    }
    assert fields == layout.structs(header)
    values = {}
    for line in layout.layout().splitlines():
        found = re.fullmatch(r"(\w+)\.(ADFAST_\w+) (\d+)", line)
        if found:
            values.setdefault(found[1], {})[in_words(found[2])] = int(found[3])
    enums = {
        name: {key: int(number, 0) for key, number in re.findall(r"(\w+) = (\w+)", body)}
        for name, body in re.findall(r"public enum (\w+) : \w+ \{(.*?)\n\}", CS, re.S)
    }
    assert enums == {in_words(name): members for name, members in values.items()}


def test_the_sizes_for_csharp_are_those_of_c():
    """Field by field: UIntPtr and IntPtr have 8 bytes, int and float 4, double 8."""
    bytes_of = {"UIntPtr": 8, "IntPtr": 8, "int": 4, "uint": 4, "float": 4, "double": 8}
    bytes_of |= {"long": 8, "ulong": 8, "byte": 1, "Status": 4, "adfast_rectangle": 16}
    recorded = dict(
        re.findall(r"^(\w+\.\w+) at \d+, (\d+) bytes$", layout.layout(), re.M),
    )
    for name, body in re.findall(r"public struct (adfast_\w+) \{(.*?)\n\}", CS, re.S):
        for kind, field in re.findall(r"public (\w+) (\w+);", body):
            assert bytes_of[kind] == int(recorded[f"{name}.{field}"]), f"{name}.{field}"


def test_csharp_gives_pythons_bits(tiny_plan, raw_frame, tmp_path):
    if shutil.which("mcs") is None or shutil.which("mono") is None:
        pytest.skip("mono is not installed: the C# declarations are compared, not compiled")
    folder = ROOT / "examples/csharp"
    program = tmp_path / "Inspect.exe"
    run("mcs", f"-out:{program}", folder / "Adfast.cs", folder / "Inspect.cs")
    environment = os.environ | {"LD_LIBRARY_PATH": str(library_folder())}
    rest = (tmp_path / "frame.raw", 64, 48)
    line = run("mono", program, tiny_plan, *rest, env=environment)
    # Mono writes 9 digits with trailing zeros left out, as C's %.9g does, but 0.05 as 0.0500000007.
    words, expected = line.split(), expected_line(tiny_plan, raw_frame).split()
    assert [float(words[i]) for i in (1, 3)] == [float(expected[i]) for i in (1, 3)]
    assert words[4] == expected[4]
    failed = subprocess.run(["mono", program, "none.plan", *map(str, rest)],
                            capture_output=True, text=True, env=environment)  # fmt: skip
    assert failed.returncode == 1 and "none.plan" in failed.stderr


# As much of cv::Mat as the header uses; for machines without OpenCV.
STUB = """
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>
#define CV_8UC1 0
#define CV_8UC3 16
#define CV_16UC1 2
#define CV_16UC3 18
#define CV_32FC1 5
namespace cv {
struct Mat {
  int rows = 0, cols = 0, dims = 2;
  unsigned char* data = nullptr;
  std::size_t step[2] = {0, 0};
  int kind = 0;
  Mat() = default;
  Mat(int rows, int cols, int type, void* data, std::size_t bytes = 0)
      : rows(rows), cols(cols), data(static_cast<unsigned char*>(data)), kind(type) {
    const std::size_t pixel = type == CV_8UC3 ? 3 : type == CV_16UC1 ? 2 : type == CV_32FC1 ? 4
                            : type == CV_16UC3 ? 6 : 1;
    step[0] = bytes == 0 ? cols * pixel : bytes;
    step[1] = pixel;
  }
  int type() const { return kind; }
  template <class T> T& at(int y, int x) {
    return *reinterpret_cast<T*>(data + y * step[0] + x * step[1]);
  }
};
}  // namespace cv
"""

OPENCV_PROGRAM = """
#include <adfast/opencv.hpp>
#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int, char** argv) {
  const adfast::Engine engine(argv[1], {1});
  std::vector<uint8_t> pixels(40 * 200);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * i % 251);
  // Rows with gaps: a view into a larger image.
  cv::Mat grey(30, 50, CV_8UC1, pixels.data(), 200), color(30, 50, CV_8UC3, pixels.data(), 200);
  cv::Mat deep(30, 50, CV_16UC1, pixels.data(), 200), row(1, 50, CV_8UC1, pixels.data(), 200);
  adfast::Result result = adfast::predict(engine, grey);
  const cv::Mat map = adfast::map_of(result);
  if (map.rows != 30 || map.cols != 50 || map.type() != CV_32FC1 ||
      map.data != reinterpret_cast<uint8_t*>(result.map.data())) {
    return 2;
  }
  std::printf("%.9g %.9g %.9g %.9g\\n", result.score, adfast::predict(engine, color).score,
              adfast::predict(engine, deep, 12).score, adfast::predict(engine, row).score);
  int refused = 0;
  const cv::Mat other(3, 3, CV_16UC3, pixels.data());
  const auto refuse = [&](const cv::Mat& image, int bits) {
    try {
      adfast::predict(engine, image, bits);
    } catch (const adfast::Failure& failure) {
      refused += failure.status() == ADFAST_ERROR_FRAME;
    }
  };
  refuse(other, 0);
  refuse(deep, 0);
  refuse(deep, 11);
  refuse(grey, 12);
  return refused == 4 ? 0 : 3;
}
"""


@pytest.mark.parametrize("kind", ["opencv", "stub"])
def test_opencv(kind, tiny_plan, tmp_path):
    include = ["-I", str(_core_include())]
    if kind == "opencv":
        place = next((p for p in ("/usr/include/opencv4", "/usr/local/include/opencv4")
                      if Path(p, "opencv2/core.hpp").is_file()), None)  # fmt: skip
        if place is None:
            pytest.skip("OpenCV is not installed; the stub stands for it")
        include += ["-isystem", place]
        libraries = ["-lopencv_core"]
    else:
        (tmp_path / "opencv2").mkdir()
        (tmp_path / "opencv2/core.hpp").write_text(STUB)
        include += ["-I", str(tmp_path)]
        libraries = []
    (tmp_path / "program.cpp").write_text(OPENCV_PROGRAM)
    folder = library_folder()
    run(
        CXX, "-std=c++17", "-Wall", "-Wextra", "-Werror", *include, tmp_path / "program.cpp",
        "-L", folder, "-ladfast", f"-Wl,-rpath,{folder}", *libraries, "-o", tmp_path / "program",
    )  # fmt: skip
    pixels = (np.arange(40 * 200) ** 2 % 251).astype(np.uint8).reshape(40, 200)
    engine = adfast.load(tiny_plan, device="cpu", threads=1)
    expected = [
        engine.predict(pixels[:30, :50]),
        engine.predict(pixels[:30, :150].reshape(30, 50, 3), pixel_format="BGR8"),
        engine.predict(pixels[:30, :100].copy().view("<u2"), pixel_format="Mono12"),
        engine.predict(pixels[:1, :50]),
    ]
    line = run(tmp_path / "program", tiny_plan)
    assert line == " ".join(f"{result.score:.9g}" for result in expected) + "\n"


def _core_include() -> Path:
    return Path(_core.__file__).parent / "include"


SIGNED_PROGRAM = """
#include <adfast/adfast.h>
#include <stdio.h>

int main(int argc, char** argv) {
  unsigned value;
  uint8_t key[32];
  int i;
  adfast_options options = {sizeof(adfast_options)};
  adfast_engine* engine = NULL;
  for (i = 0; i < 32; ++i) {
    sscanf(argv[2] + 2 * i, "%2x", &value);
    key[i] = (uint8_t)value;
  }
  options.threads = 1;
  options.public_key = key;
  (void)argc;
  const adfast_status status = adfast_load(argv[1], &options, &engine);
  printf("%d %s\\n", (int)status, status == ADFAST_OK ? "" : adfast_last_error());
  adfast_destroy(engine);
  return 0;
}
"""


def test_c_checks_signatures_or_says_that_it_cannot(pkg_config, tiny_plan, tmp_path):
    pytest.importorskip("cryptography")
    from adfast import signing

    _, raw = signing.make_key(tmp_path / "a.pem")
    _, other = signing.make_key(tmp_path / "b.pem")
    signed, altered = tmp_path / "signed.plan", tmp_path / "altered.plan"
    signing.sign(tiny_plan, tmp_path / "a.pem", signed)
    data = bytearray(signed.read_bytes())
    data[-1] ^= 1
    altered.write_bytes(data)
    (tmp_path / "signed.c").write_text(SIGNED_PROGRAM)
    program = tmp_path / "signed"
    run(CC, tmp_path / "signed.c", *flags(pkg_config), "-o", program)
    out = run(program, signed, raw.hex())
    if "built without signature check" in out:
        assert out.startswith("3 ")
        pytest.skip("this libadfast.so was built without libsodium: it refuses, as it must")
    assert out.startswith("0 ")
    for plan, key, message in (
        (signed, other, "signed with another key"),
        (altered, raw, "altered after it was signed"),
        (tiny_plan, raw, "not signed"),
    ):
        out = run(program, plan, key.hex())
        assert out.startswith("1 ") and message in out


def test_the_folders_are_told(capsys):
    for option, name in (("--cmake-dir", "adfast-config.cmake"), ("--pkg-config-dir", "adfast.pc")):
        assert cli.main([option]) == 0
        assert Path(capsys.readouterr().out.strip(), name).is_file()
