"""Where a device's plugin and the vendor's libraries are looked for."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

LIBRARIES = "ADFAST_LIBRARIES"


def library_folders() -> list[str]:
    """List folders in the order in which they are searched.

    First those of the environment variable ADFAST_LIBRARIES (separated by ":"), then the folders
    of NVIDIA's wheels (nvidia-cudnn-cu13, nvidia-cublas) in this Python, which an installed PyTorch
    brings. What is in none of them is looked for where the system keeps its libraries.
    """
    folders = [folder for folder in os.environ.get(LIBRARIES, "").split(":") if folder]
    try:
        wheels = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        wheels = None
    for place in wheels.submodule_search_locations or [] if wheels else []:
        folders += sorted(str(path) for path in Path(place).glob("*/lib") if path.is_dir())
    return folders
