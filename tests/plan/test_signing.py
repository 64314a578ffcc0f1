"""Signatures: only what the key's owner signed is loaded, and only as it was signed."""

from __future__ import annotations

import hashlib
import os
import stat
import struct

import numpy as np
import pytest

pytest.importorskip("cryptography")

from cryptography.hazmat.primitives import serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: E402

import adfast  # noqa: E402
from adfast import _core, cli, signing  # noqa: E402


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two pairs: private and public file of each."""
    folder = tmp_path_factory.mktemp("keys")
    pairs = []
    for name in ("a", "b"):
        public, _ = signing.make_key(folder / f"{name}.pem")
        pairs.append((folder / f"{name}.pem", public))
    return pairs


@pytest.fixture(scope="module")
def signed(keys, tiny_plan, tmp_path_factory):
    path = tmp_path_factory.mktemp("signed") / "signed.plan"
    signing.sign(tiny_plan, keys[0][0], path)
    return path


def altered(tmp_path, data: bytes):
    path = tmp_path / "altered.plan"
    path.write_bytes(data)
    return path


def test_keys_are_private_and_never_overwritten(tmp_path):
    public, raw = signing.make_key(tmp_path / "key.pem")
    assert public == tmp_path / "key.pub.pem" and len(raw) == 32
    assert stat.S_IMODE(os.stat(tmp_path / "key.pem").st_mode) == 0o600
    assert signing.public_key_bytes(public) == raw
    with pytest.raises(adfast.ArgumentError, match="keys are not overwritten"):
        signing.make_key(tmp_path / "key.pem")


def test_a_signed_plan_loads_with_its_key_and_without_one(signed, keys, tiny_plan):
    frame = np.full((9, 8), 99, np.uint8)
    expected = adfast.load(tiny_plan).predict(frame).score
    raw = signing.public_key_bytes(keys[0][1])
    for key in (keys[0][1], str(keys[0][1]), raw, None):
        assert adfast.load(signed, public_key=key).predict(frame).score == expected
    assert _core.read_plan(str(signed))["signed_by"] == raw.hex()
    assert _core.read_plan(str(tiny_plan))["signed_by"] == ""


def test_signing_leaves_every_section_as_it_is(signed, tiny_plan):
    plain, other = _core.Plan(str(tiny_plan)), _core.Plan(str(signed))
    for each in plain.contents()["sections"]:
        assert plain.section(each["name"]) == other.section(each["name"])
    assert plain.contents()["sections"] == other.contents()["sections"]
    assert (plain.contents()["version"], other.contents()["version"]) == (1, 2)


def test_another_key_is_refused(signed, keys):
    with pytest.raises(adfast.PlanError, match="signed with another key"):
        adfast.load(signed, public_key=keys[1][1])


def test_an_unsigned_plan_is_refused(tiny_plan, keys):
    with pytest.raises(adfast.PlanError, match="not signed"):
        adfast.load(tiny_plan, public_key=keys[0][1])


def test_a_stripped_signature_is_refused(tmp_path, signed, tiny_plan, keys):
    """What is left is the unsigned plan, byte for byte; its header is easily made again."""
    data = bytearray(signed.read_bytes()[:-128])
    struct.pack_into("<II", data, 8, 1, 1)
    struct.pack_into("<Q", data, 16, len(data))
    struct.pack_into("<I", data, 28, 0)
    end = 64 + 64 * struct.unpack_from("<I", data, 24)[0]
    data[32:64] = hashlib.sha256(data[:32] + data[64:end]).digest()
    assert data == tiny_plan.read_bytes()
    with pytest.raises(adfast.PlanError, match="not signed"):
        adfast.load(altered(tmp_path, data), public_key=keys[0][1])


def test_every_altered_byte_is_refused(tmp_path, signed, keys):
    data = signed.read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8)
        path = altered(tmp_path, bytes(changed))
        with pytest.raises(adfast.AdfastError):
            _core.Plan(str(path), signing.check_of(keys[0][1], "a"))


def test_every_cut_is_refused(tmp_path, signed, keys):
    data = signed.read_bytes()
    for length in range(0, len(data), 7):
        with pytest.raises(adfast.AdfastError):
            _core.Plan(str(altered(tmp_path, data[:length])))


def resealed(data: bytes, section: str, change) -> bytes:
    """Alter a section and make all digests right again: what anyone can do."""
    data = bytearray(data)
    count = struct.unpack_from("<I", data, 24)[0]
    for index in range(count):
        at = 64 + 64 * index
        name, offset, size = struct.unpack_from("<16sQQ", data, at)
        if name.rstrip(b"\0").decode() == section:
            data[offset : offset + size] = change(bytes(data[offset : offset + size]))
            data[at + 32 : at + 64] = hashlib.sha256(data[offset : offset + size]).digest()
    data[32:64] = hashlib.sha256(data[:32] + data[64 : 64 + 64 * count]).digest()
    return bytes(data)


@pytest.mark.parametrize("section", ["calibration", "weights", "golden", "provenance"])
def test_digests_that_were_made_again_do_not_help(tmp_path, signed, keys, section):
    changed = resealed(signed.read_bytes(), section, lambda old: old[:-1] + bytes([old[-1] ^ 1]))
    path = altered(tmp_path, changed)
    with pytest.raises(adfast.PlanError, match="altered after it was signed"):
        adfast.load(path, public_key=keys[0][1])


def test_a_signature_of_another_plan_does_not_help(tmp_path, signed, keys, tiny_int8_plan):
    other = tmp_path / "other.plan"
    signing.sign(tiny_int8_plan, keys[0][0], other)
    mixed = other.read_bytes()[:-64] + signed.read_bytes()[-64:]
    with pytest.raises(adfast.PlanError, match="altered after"):
        adfast.load(altered(tmp_path, mixed), public_key=keys[0][1])


def test_the_key_in_the_file_is_not_believed(tmp_path, signed, keys):
    """Signed by b, and the file says so: whoever trusts a refuses it, whatever is claimed."""
    path = tmp_path / "b.plan"
    signing.sign(signed, keys[1][0], path)
    claimed = path.read_bytes()[:-96] + signing.public_key_bytes(keys[0][1])
    path = altered(tmp_path, claimed + path.read_bytes()[-64:])
    with pytest.raises(adfast.PlanError, match="altered after"):
        adfast.load(path, public_key=keys[0][1])


def test_the_check_comes_before_the_parser(tmp_path, signed, keys):
    """A hostile section does not reach the parser when a key is given."""
    broken = resealed(signed.read_bytes(), "graph", lambda old: b"\xff" * len(old))
    path = altered(tmp_path, broken)
    with pytest.raises(adfast.PlanError, match="plan section 'graph'"):
        adfast.load(path)
    with pytest.raises(adfast.PlanError, match="altered after"):
        adfast.load(path, public_key=keys[0][1])


def test_signing_again_replaces_the_signature(signed, keys, tmp_path):
    path = tmp_path / "again.plan"
    path.write_bytes(signed.read_bytes())
    signing.sign(path, keys[1][0])
    assert path.stat().st_size == signed.stat().st_size
    adfast.load(path, public_key=keys[1][1])
    with pytest.raises(adfast.PlanError):
        adfast.load(path, public_key=keys[0][1])


def test_a_damaged_plan_is_not_signed(tmp_path, tiny_plan, keys):
    data = bytearray(tiny_plan.read_bytes())
    data[-1] ^= 1
    path = altered(tmp_path, data)
    with pytest.raises(adfast.PlanError, match="SHA-256"):
        signing.sign(path, keys[0][0])
    assert path.read_bytes() == data


def test_keys_that_do_not_fit(tmp_path, signed, keys):
    for key, message in (
        (b"short", "5 bytes, expected 32"),
        (tmp_path / "none.pem", "cannot read key"),
        (keys[0][0], "holds a private key"),
        (signed, "no public key in PEM"),
    ):
        with pytest.raises(adfast.ArgumentError, match=message):
            adfast.load(signed, public_key=key)
    other = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    (tmp_path / "ec.pub.pem").write_bytes(
        other.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "ec.pem").write_bytes(
        other.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(adfast.ArgumentError, match="no Ed25519 key"):
        adfast.load(signed, public_key=tmp_path / "ec.pub.pem")
    for key, message in (
        (tmp_path / "ec.pem", "no Ed25519 key"),
        (keys[0][1], "no private key in PEM"),
    ):
        with pytest.raises(adfast.ArgumentError, match=message):
            signing.sign(signed, key, tmp_path / "out.plan")
    assert not (tmp_path / "out.plan").exists()


def test_an_encrypted_key(tmp_path, signed):
    key = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    out = tmp_path / "out.plan"
    with pytest.raises(adfast.ArgumentError, match="expected a password"):
        signing.sign(signed, tmp_path / "key.pem", out)
    with pytest.raises(adfast.ArgumentError, match="password is wrong"):
        signing.sign(signed, tmp_path / "key.pem", out, password=lambda: b"guess")
    signing.sign(signed, tmp_path / "key.pem", out, password=lambda: b"secret")
    adfast.load(out, public_key=key.public_key().public_bytes_raw())


def test_the_command_line(tmp_path, tiny_plan, capsys):
    key, public = str(tmp_path / "k.pem"), str(tmp_path / "k.pub.pem")
    assert cli.main(["keygen", key]) == 0
    said = capsys.readouterr().out
    assert "static const uint8_t public_key[32] = {" in said and said.count("0x") == 32
    out = str(tmp_path / "s.plan")
    assert cli.main(["verify", str(tiny_plan), "--key", public]) == 1
    assert "not signed" in capsys.readouterr().err
    assert cli.main(["sign", str(tiny_plan), "--key", key, "-o", out]) == 0
    assert cli.main(["verify", out, "--key", public]) == 0
    assert "unaltered since" in capsys.readouterr().out
    assert cli.main(["info", out]) == 0
    assert "signed, it says, with key" in capsys.readouterr().out
    assert cli.main(["selftest", out, "--precision", "f32", "--public-key", public]) == 0
    assert cli.main(["selftest", str(tiny_plan), "--public-key", public]) == 1
    assert "not signed" in capsys.readouterr().err


def test_without_cryptography_nothing_is_accepted(signed, keys, monkeypatch, capsys):
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ImportError, match=r"adfast\[sign\]"):
        adfast.load(signed, public_key=keys[0][1])
    assert cli.main(["verify", str(signed), "--key", str(keys[0][1])]) == 1
    assert 'pip install "adfast[sign]"' in capsys.readouterr().err
