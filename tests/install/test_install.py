"""What a user installs: a light wheel, an import without torch or onnx, a library to link."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

import adfast
from adfast.images import write_png

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sysconfig.get_path("scripts"))


def run(*command, **options) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
        **options,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def site_packages() -> list[str]:
    return [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # In the folder where make has built it already.
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
        "-C", "build-dir=build/python", "--wheel-dir", folder, ROOT,
    )  # fmt: skip
    return next(folder.glob("adfast-*.whl"))


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """A fresh environment with numpy and the wheel; returns its folder."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder, with_pip=True)
    run(
        folder / "bin/python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt",
        wheel,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def frame(tmp_path_factory) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (48, 64), dtype=np.uint8)


def test_the_wheel_is_light(wheel):
    assert wheel.stat().st_size < 60e6
    names = zipfile.ZipFile(wheel).namelist()
    assert "adfast/lib/libdnnl.so.3" in names and "adfast/lib/libadfast.so" in names
    assert "adfast/include/adfast/adfast.h" in names and "adfast/lib/pkgconfig/adfast.pc" in names
    assert not [n for n in names if n.startswith(("tests/", "bench/", "csrc/", "kernels/"))]


def test_the_wheel_has_the_triton_kernels(wheel, tmp_path):
    """As adfast.triton, importable and seen by adfast.ops; without what only CMake needs."""
    pytest.importorskip("torch")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("adfast/triton/")}
    sources = {f"adfast/triton/{p.name}" for p in (ROOT / "kernels/triton").glob("*.py")}
    assert names == sources and "adfast/triton/halo_attention.py" in sources
    zipfile.ZipFile(wheel).extractall(tmp_path)
    # -S keeps the .pth of an editable adfast out, which would be found first.
    script = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; sys.path += {site_packages()!r}\n"
        "import torch, adfast.ops as ops, adfast.triton\n"
        f"assert adfast.triton.__file__.startswith({str(tmp_path)!r}), adfast.triton.__file__\n"
        "assert ops.kernels is adfast.triton\n"
        "x = torch.ones(1, 2, 4); assert ops.attention(x, x, x, 2, 1.0).equal(x)\n"
    )
    run(sys.executable, "-I", "-S", "-c", script)


def test_an_editable_install_has_the_triton_kernels():
    """Where this environment's adfast is one: straight from the source folder."""
    pytest.importorskip("torch")
    script = "import adfast, adfast.triton; print(adfast.__file__, adfast.triton.__file__)"
    package, kernels = (Path(p) for p in run(sys.executable, "-c", script).split())
    if package.parent != ROOT / "python/adfast":
        pytest.skip(f"adfast is installed from {package.parent}")
    assert kernels == ROOT / "kernels/triton/__init__.py"


def test_bare_install_predicts_with_numpy_only(bare, tiny_plan, frame, tmp_path):
    packages = run(bare / "bin/python", "-m", "pip", "list", "--format=freeze").lower()
    assert "torch" not in packages and "onnx" not in packages and "pillow" not in packages
    write_png(tmp_path / "frame.png", frame)
    out = run(
        bare / "bin/adfast", "predict", tiny_plan, tmp_path / "frame.png", "-o", tmp_path / "out"
    )
    assert f"{adfast.load(tiny_plan).predict(frame).score:.3g}"[:4] in out
    assert list((tmp_path / "out").glob("*.png"))


def test_import_is_quick_and_light(bare):
    code = (
        "import time, sys; t = time.perf_counter(); import numpy; "
        "n = time.perf_counter(); import adfast; e = time.perf_counter(); "
        "bad = {'torch', 'onnx', 'PIL'} & set(sys.modules); print(e - t, bad or '')"
    )
    seconds = [float(run(bare / "bin/python", "-c", code).split()[0]) for _ in range(3)]
    # The promise is 0.2 s; a loaded test machine gets some slack.
    assert min(seconds) < 0.4


@pytest.fixture(scope="module")
def programs(bare, tmp_path_factory):
    """Build the examples against the installed package."""
    cmake = shutil.which("cmake", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    assert cmake, "make test installs cmake into its environment"
    config = run(bare / "bin/adfast", "--cmake-dir").strip()
    build = tmp_path_factory.mktemp("examples")
    run(cmake, "-S", ROOT / "examples", "-B", build, f"-Dadfast_DIR={config}")
    run(cmake, "--build", build)
    return build


def test_c_and_cpp_programs_give_pythons_bits(programs, tiny_plan, frame, tmp_path):
    (tmp_path / "frame.raw").write_bytes(frame.tobytes())
    result = adfast.load(tiny_plan).predict(frame)
    verdict = "anomalous" if result.is_anomalous else "good"
    expected = f"score {result.score:.9g} threshold {np.float32(result.threshold):.9g} {verdict}\n"
    for program in ("inspect_cpp", "inspect_c"):
        rest = (tmp_path / "frame.raw", "64", "48")
        assert run(programs / program, tiny_plan, *rest) == expected
        failed = subprocess.run([programs / program, "none.plan", *rest], capture_output=True)
        assert failed.returncode == 1 and b"none.plan" in failed.stderr


def test_streams_in_cpp_give_pythons_bits(programs, tiny_plan, frame, tmp_path):
    files, expected = [], []
    engine = adfast.load(tiny_plan)
    for number in range(6):
        shifted = np.roll(frame, number)
        files.append(tmp_path / f"{number}.raw")
        files[-1].write_bytes(shifted.tobytes())
        expected.append(f"{number} {engine.predict(shifted).score:.9g}")
    printed = run(programs / "stream_cpp", tiny_plan, frame.shape[1], frame.shape[0], *files)
    # Two cameras: their frames mix, but none is lost.
    assert sorted(printed.splitlines()) == expected


def test_all_of_the_c_interface(bare, tiny_plan, tmp_path):
    """tests/install/c_api.c checks what it can by itself; figures are compared with Python's."""
    package = next(bare.rglob("libadfast.so")).parent.parent
    program = tmp_path / "c_api"
    include, library = f"-I{package}/include", f"-L{package}/lib"
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"]
    source = ROOT / "tests/install/c_api.c"
    run("cc", *flags, include, source, "-o", program, library, "-ladfast", "-lm",
        f"-Wl,-rpath,{package}/lib")  # fmt: skip
    lines = run(program, tiny_plan, 52, 40).splitlines()
    engine = adfast.load(tiny_plan)
    frame = (np.arange(40 * 52) * 7 % 251).astype(np.uint8).reshape(40, 52)
    result = engine.predict(frame)
    expected = [
        f"score {result.score:.9g} {int(result.is_anomalous)}",
        "inspected " + " ".join(str(side) for side in result.inspected),
    ]
    for r in result.regions(np.float32(result.score) * np.float32(0.5), min_area=2)[:4]:
        places = (*r.box, r.area, f"{r.peak:.9g}", f"{r.mean:.6g}", *r.peak_at)
        expected.append("region " + " ".join(str(place) for place in places))
    ignore = np.zeros(frame.size, bool)
    ignore[: frame.size // 2] = True
    part = engine.predict(frame, roi=(3, 2, 47, 36))
    mosaic = engine.predict(frame, pixel_format="BayerRG8", ignore=ignore.reshape(frame.shape))
    expected.append(f"batch {part.score:.9g} {mosaic.score:.9g}")
    assert lines == expected


def test_the_library_exports_what_is_promised_and_nothing_else(bare):
    library = next(bare.rglob("libadfast.so"))
    table = run("nm", "-D", "--defined-only", library)
    names = {line.split()[-1] for line in table.splitlines()}
    assert names == set((ROOT / "csrc/c_api/symbols.txt").read_text().split())
