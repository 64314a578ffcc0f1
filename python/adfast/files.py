"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from adfast.errors import AdfastError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block succeeds.

    On any exception the temporary file is removed and `path` is left as it was.

    Raises:
        AdfastError: the folder does not exist or cannot be written, or the disk is full.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix
        )
        os.close(handle)
    except OSError as error:
        raise AdfastError(
            f"cannot write {target}: {error.strerror or error}; choose a folder that exists "
            "and that you may write to"
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes files private to the user; a result is as readable as any new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except OSError as error:
        raise AdfastError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def check_writable(output: Path) -> None:
    """Fail before the work, not after it.

    Raises:
        AdfastError: `output` is a folder, or its folder is missing or cannot be written.
    """
    if output.is_dir():
        raise AdfastError(f"cannot write {output}: it is a folder; name the plan file")
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise AdfastError(
            f"cannot write {output}: {error.strerror or error}; choose a folder that exists "
            "and that you may write to"
        ) from error


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file beside `path` for writing ("wb" or "w"); rename it when complete."""
    if mode not in ("wb", "w"):
        raise ValueError(f"atomic_write: mode is {mode!r}, expected 'wb' or 'w'")
    with atomic_path(path) as temporary:
        encoding = None if "b" in mode else "utf-8"
        with open(temporary, mode, encoding=encoding) as file:
            yield file
