"""README and CONTRIBUTING are true: code runs, commands exist, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adfast import _core
from adfast.images import write_png

ROOT = Path(__file__).parent.parent.parent
PAGES = ["README.md", "CONTRIBUTING.md"]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.mark.parametrize("code", blocks("README.md", "python"))
def test_python_runs(code, tiny_plan, tmp_path, monkeypatch):
    (tmp_path / "part.plan").write_bytes(tiny_plan.read_bytes())
    for name in ("frame.png", "a.png", "b.png"):
        write_png(tmp_path / name, np.random.default_rng(1).integers(0, 256, (40, 50), np.uint8))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_commands_exist():
    from adfast.cli import make_parser

    commands = [
        line
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.splitlines()
        if line.startswith("adfast ") and not line.startswith("adfast --")
    ]
    assert len(commands) >= 6
    for line in commands:
        words = shlex.split(line, comments=True)[1:]
        make_parser(words[0]).parse_args(words)


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize(("language", "file"), [("cpp", "smallest.cpp"), ("c", "smallest.c")])
def test_cpp_and_c_are_the_tested_examples(language, file, tiny_plan, tmp_path):
    """Whole programs, to the byte, which compile and run as they stand."""
    (block,) = blocks("README.md", language)
    assert block == (ROOT / "examples" / file).read_text()
    (tmp_path / "part.plan").write_bytes(tiny_plan.read_bytes())
    package = Path(_core.__file__).parent
    paths = ["-I", package / "include", "-L", package / "lib", f"-Wl,-rpath,{package / 'lib'}"]
    source = tmp_path / file
    source.write_text(block)
    compiler = ["cc", "-std=c99"] if language == "c" else ["c++", "-std=c++17"]
    words = [*compiler, "-Wall", source, *paths, "-ladfast", "-o", tmp_path / "smallest"]
    subprocess.run([str(word) for word in words], check=True)
    done = subprocess.run([tmp_path / "smallest"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(good|anomalous), score [\d.e-]+\n", done.stdout)


def test_tables_are_the_results():
    """The README's figures are those of the files under bench/results."""
    done = subprocess.run([sys.executable, ROOT / "bench/tables.py", "--check"])
    assert done.returncode == 0, "run: python bench/tables.py"
