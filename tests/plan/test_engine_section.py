"""The section that holds an engine of TensorRT: read, kept, signed, refused where it is wrong."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest

import adfast
from adfast import _core
from adfast.plan_file import TENSORRT, head, pieces, read_sections, table, write_sections
from adfast.tensorrt.target import engine_section

INFO = {"version": "11.4.0", "capability": "9.0", "precision": "f16", "card": "a card"}


def with_section(plan, path, content: bytes):
    write_sections(path, read_sections(_core.Plan(str(plan))) | {TENSORRT: content})
    return path


@pytest.fixture
def engine_plan(tiny_plan, tmp_path):
    return with_section(tiny_plan, tmp_path / "engine.plan", engine_section(INFO, b"an engine"))


def test_it_is_read_and_the_cpu_does_without(engine_plan, tiny_plan, tmp_path):
    contents = _core.read_plan(str(engine_plan))
    assert (contents["version"], contents["oldest_reader"]) == (3, 3)
    assert contents["tensorrt"] == INFO | {"bytes": 9}
    assert "tensorrt" not in _core.read_plan(str(tiny_plan))
    assert adfast.load(engine_plan, device="cpu").self_test()["passed"]
    # Taken out again, the plan is what it was.
    sections = read_sections(_core.Plan(str(engine_plan)))
    del sections[TENSORRT]
    write_sections(tmp_path / "without.plan", sections)
    assert (tmp_path / "without.plan").read_bytes() == tiny_plan.read_bytes()


def test_a_signature_is_over_the_engine_too(engine_plan, tmp_path):
    from adfast.signing import make_key, sign

    public, _ = make_key(tmp_path / "key.pem")
    sign(engine_plan, tmp_path / "key.pem")
    assert _core.read_plan(str(engine_plan))["version"] == 3
    adfast.load(engine_plan, device="cpu", public_key=public)
    data = bytearray(engine_plan.read_bytes())
    data[data.index(b"an engine")] ^= 1
    engine_plan.write_bytes(data)
    with pytest.raises(adfast.PlanError, match="'tensorrt' does not match its SHA-256"):
        adfast.load(engine_plan, device="cpu", public_key=public)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "tensorrt"),
        (table(INFO), "tensorrt"),
        (engine_section(INFO, b""), "an engine of no bytes"),
        (engine_section(INFO, b"engine")[:-1], "tensorrt"),
        (engine_section(INFO, b"engine") + b"\0", "tensorrt"),
        (table(INFO) + struct.pack("<Q", 2**63) + b"engine", "tensorrt"),
        (engine_section({"version": "11.4.0"}, b"engine"), "'capability' is missing"),
        (engine_section(INFO | {"precision": 16}, b"engine"), "'precision' is not a text"),
    ],
    ids=range(8),
)
def test_what_is_damaged_is_refused(content, message, tiny_plan, tmp_path):
    path = with_section(tiny_plan, tmp_path / "hostile.plan", content)
    with pytest.raises(adfast.PlanError, match=message):
        _core.read_plan(str(path))


@pytest.mark.parametrize("version", [1, 2])
def test_older_formats_have_none(version, engine_plan):
    """A plan that says it is older has no eighth section, whatever its digests say."""
    sections = read_sections(_core.Plan(str(engine_plan)))
    beginning = bytearray(head(sections))
    struct.pack_into("<II", beginning, 8, version, version)
    beginning[32:64] = hashlib.sha256(bytes(beginning[:32]) + bytes(beginning[64:])).digest()
    engine_plan.write_bytes(b"".join(pieces(bytes(beginning), sections)))
    with pytest.raises(adfast.PlanError, match="8 sections, expected 7"):
        _core.read_plan(str(engine_plan))


def test_another_eighth_section_is_refused(tiny_plan, tmp_path):
    sections = read_sections(_core.Plan(str(tiny_plan))) | {"other": b"thing"}
    beginning = bytearray(head(sections))
    struct.pack_into("<II", beginning, 8, 3, 3)
    beginning[32:64] = hashlib.sha256(bytes(beginning[:32]) + bytes(beginning[64:])).digest()
    path = tmp_path / "other.plan"
    path.write_bytes(b"".join(pieces(bytes(beginning), sections)))
    with pytest.raises(adfast.PlanError, match="section 'other', expected 'tensorrt'"):
        _core.read_plan(str(path))


def test_a_new_calibration_keeps_the_engine(engine_plan, tmp_path):
    from adfast.recalibrate import recalibrate

    good = tmp_path / "good"
    good.mkdir()
    for i in range(12):
        np.save(good / f"{i}.npy", np.random.default_rng(i).integers(0, 256, (20, 20), np.uint8))
    recalibrate(engine_plan, tmp_path / "new.plan", good=good, device="cpu")
    before, after = (_core.Plan(str(path)) for path in (engine_plan, tmp_path / "new.plan"))
    assert after.section("tensorrt") == before.section("tensorrt")
    assert after.section("calibration") != before.section("calibration")
