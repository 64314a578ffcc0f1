"""Where a device's plugin and the vendor's libraries are looked for."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from adfast.errors import ArgumentError

LIBRARIES = "ADFAST_LIBRARIES"


def library_folders() -> list[str]:
    """List folders in the order in which they are searched.

    First those of the environment variable ADFAST_LIBRARIES (separated by ":"), then the folders
    of NVIDIA's wheels in this Python: nvidia-cudnn-cu13 and nvidia-cublas, which an installed
    PyTorch brings, and tensorrt. What is in none of them is looked for where the system keeps its
    libraries.
    """
    folders = [folder for folder in os.environ.get(LIBRARIES, "").split(":") if folder]
    for place in _package("nvidia"):
        folders += sorted(str(path) for path in place.glob("*/lib") if path.is_dir())
    return folders + [str(place) for place in _package("tensorrt_libs")]


def own_library(name: str) -> Path:
    """Find a library that was built with the engine: in ADFAST_LIBRARIES, or beside it.

    Raises:
        ArgumentError: it was not built.
    """
    from adfast import _core

    folder = Path(_core.__file__).parent
    asked = os.environ.get(LIBRARIES, "").split(":")
    for place in [*(Path(each) for each in asked if each), folder, folder / "lib"]:
        if (place / name).is_file():
            return place / name
    raise ArgumentError(
        f"this adfast was built without {name}; build it where a CUDA compiler is at hand"
    )


def _package(name: str) -> list[Path]:
    """Find a package's folders without importing it."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    return [Path(place) for place in found.submodule_search_locations or []] if found else []
