"""Signatures of plans: who made them, beyond what a SHA-256 that anyone can compute again says.

Ed25519 (RFC 8032), by the package cryptography. The signature ends the file and is over the header
and the section table, which holds the SHA-256 of every section (docs/plan-format.md). A check goes
before parsing, on the bytes that are then used.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adfast.errors import AdfastError, ArgumentError, PlanError
from adfast.files import atomic_write, check_writable
from adfast.plan_file import (
    SIGNATURE_DOMAIN,
    SIGNATURE_ED25519,
    SIGNATURE_MAGIC,
    head,
    pieces,
    read_sections,
)

#: A public key: its 32 bytes, or a PEM file of it.
PublicKey = bytes | str | os.PathLike[str]
#: What `_core.Plan` calls before it parses: message, and of a signed plan key and signature.
Check = Callable[[bytes, bytes | None, bytes | None], None]


def make_key(path: str | os.PathLike[str]) -> tuple[Path, bytes]:
    """Make a key pair: the private key at `path`, which only its owner can read.

    Returns:
        The file of the public key, beside it with the ending .pub.pem, and its 32 bytes.

    Raises:
        ArgumentError: one of the files is there already; keys are never overwritten.
        AdfastError: they cannot be written.
    """
    _, serialization, ed25519, _ = _cryptography()
    path = Path(path)
    public_path = path.with_name(path.name.removesuffix(".pem") + ".pub.pem")
    for each in (path, public_path):
        if each.exists():
            raise ArgumentError(f"[keygen] {each} exists; keys are not overwritten")
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key()
    encoded = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    try:
        # Private from its first byte on.
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "wb") as file:
            file.write(private)
    except OSError as error:
        raise AdfastError(f"cannot write {path}: {error.strerror or error}") from error
    with atomic_write(public_path) as file:
        file.write(encoded)
    return public_path, public.public_bytes_raw()


def sign(
    plan: str | os.PathLike[str],
    key: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    password: Callable[[], bytes] | None = None,
) -> bytes:
    """Sign a plan; one that is signed already gets the new signature instead.

    Args:
        plan: the plan; all its digests are checked first.
        key: PEM file of the private key.
        output: the signed plan; None: `plan` itself, replaced when the new one is complete.
        password: asked for one where the key is encrypted.

    Returns:
        The 32 bytes of the public key.

    Raises:
        PlanError: the plan is damaged.
        ArgumentError: the key is no Ed25519 key, or its password is wrong.
        AdfastError: the output cannot be written.
    """
    from adfast import _core

    output = Path(plan if output is None else output)
    check_writable(output)
    private = _private_key(key, password)
    public = private.public_key().public_bytes_raw()
    sections = read_sections(_core.Plan(os.fspath(plan)))
    beginning = head(sections, signed=True)
    trailer = struct.pack("<8sI20x", SIGNATURE_MAGIC, SIGNATURE_ED25519)
    trailer += public + private.sign(SIGNATURE_DOMAIN + beginning)
    with atomic_write(output) as file:
        for piece in pieces(beginning, sections):
            file.write(piece)
        file.write(trailer)
    return public


def check_of(public_key: PublicKey, name: str) -> Check:
    """Make a check for `_core.Plan`: PlanError for a plan that this key did not sign.

    Raises:
        ArgumentError: the key cannot be read, or is none of Ed25519.
        ImportError: the package cryptography is not installed; says which extra brings it.
    """
    invalid, _, ed25519, _ = _cryptography()
    raw = public_key_bytes(public_key)
    key = ed25519.Ed25519PublicKey.from_public_bytes(raw)

    def check(message: bytes, signer: bytes | None, signature: bytes | None) -> None:
        if signature is None:
            raise PlanError(
                f"{name}: not signed, and a public key was given; sign it with adfast sign"
            )
        try:
            # With the caller's key: the one that the file names may be anybody's.
            if signer == raw:
                return key.verify(signature, message)
            what = "signed with another key than the one that was given"
        except invalid:
            what = "the signature does not fit: the plan was altered after it was signed"
        raise PlanError(f"{name}: {what}; do not use it unless you know why")

    return check


def public_key_bytes(key: PublicKey) -> bytes:
    """Return the 32 bytes of a public key; `key` is these, or a PEM file.

    Raises:
        ArgumentError: the file cannot be read or holds something else.
    """
    _, serialization, ed25519, unsupported = _cryptography()
    if isinstance(key, (bytes, bytearray)):
        if len(key) != 32:
            raise ArgumentError(f"[verify] a public key of {len(key)} bytes, expected 32")
        return bytes(key)
    text = _read(key)
    if b"PRIVATE KEY" in text:
        raise ArgumentError(
            f"[verify] {key} holds a private key, which must stay where plans are signed; give the "
            "public one (.pub.pem)"
        )
    try:
        loaded = serialization.load_pem_public_key(text)
    except (ValueError, unsupported) as error:
        raise ArgumentError(f"[verify] {key}: no public key in PEM: {error}") from error
    if not isinstance(loaded, ed25519.Ed25519PublicKey):
        raise ArgumentError(f"[verify] {key} is no Ed25519 key; adfast keygen makes one")
    return loaded.public_bytes_raw()


def _private_key(path: str | os.PathLike[str], password: Callable[[], bytes] | None) -> Any:
    _, serialization, ed25519, unsupported = _cryptography()
    text = _read(path)
    try:
        try:
            key = serialization.load_pem_private_key(text, None)
        except TypeError:  # it is encrypted
            if password is None:
                raise ArgumentError(f"[sign] {path} is encrypted, expected a password") from None
            key = serialization.load_pem_private_key(text, password())
    except (ValueError, unsupported) as error:
        raise ArgumentError(
            f"[sign] {path}: no private key in PEM, or the password is wrong: {error}"
        ) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ArgumentError(f"[sign] {path} is no Ed25519 key; adfast keygen makes one")
    return key


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ArgumentError(f"cannot read key {path}: {error.strerror or error}") from error


def _cryptography() -> tuple[Any, Any, Any, Any]:
    try:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ImportError(
            'signatures need cryptography, which is not installed: pip install "adfast[sign]"'
        ) from error
    return InvalidSignature, serialization, ed25519, UnsupportedAlgorithm
