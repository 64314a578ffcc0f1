"""The C interface as a list: sizes, offsets and values that programs are compiled against.

python csrc/c_api/layout.py           compares adfast.h with layout.txt; what CI does
python csrc/c_api/layout.py --write   records it, after a change that is meant

Fields and enumerators may be appended, structs then grow; whatever else changes breaks programs
that were compiled before. For x86-64; every platform that is built for has the same sizes.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
HEADER = HERE.parent / "include/adfast/adfast.h"
LIST = HERE / "layout.txt"


def bare_header() -> str:
    """Return the header without comments and preprocessor lines."""
    text = re.sub(r"/\*.*?\*/", " ", HEADER.read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"^\s*#.*$", "", text, flags=re.M)


def enums(text: str) -> dict[str, list[str]]:
    """Return the names of enumerators, by enum."""
    return {
        name: [item.split("=")[0].strip() for item in body.split(",") if item.strip()]
        for name, body in re.findall(r"typedef enum (\w+)\s*\{(.*?)\}", text, re.S)
    }


def structs(text: str) -> dict[str, list[str]]:
    """Return the names of fields in order, by struct."""
    found = {}
    for name, body in re.findall(r"typedef struct (\w+)\s*\{(.*?)\}", text, re.S):
        fields = []
        for declaration in body.split(";"):
            # void (*done)(int32_t a, void* b); int32_t width, height; const char* name; float x[4]
            pointer = re.search(r"\(\s*\*\s*(\w+)\s*\)", declaration)
            if pointer:
                fields.append(pointer[1])
                continue
            names = [part.split("[")[0].split() for part in declaration.split(",")]
            fields += [words[-1].lstrip("*") for words in names if words]
        found[name] = fields
    return found


def functions(text: str) -> list[str]:
    """Return the names of the functions, in order."""
    return re.findall(r"ADFAST_API[^;(]*?\b(adfast_\w+)\s*\(", text)


def layout() -> str:
    """Compile a program that prints it all, and run it."""
    text = bare_header()
    lines = ["#include <adfast/adfast.h>", "#include <stdio.h>", "int main(void) {"]
    for name, members in enums(text).items():
        for member in members:
            lines.append(f'  printf("{name}.{member} %lld\\n", (long long){member});')
    for name, fields in structs(text).items():
        lines.append(f'  printf("{name} %zu\\n", sizeof({name}));')
        for field in fields:
            place = f"offsetof({name}, {field}), sizeof((({name}*)0)->{field})"
            lines.append(f'  printf("{name}.{field} at %zu, %zu bytes\\n", {place});')
    lines += ["  return 0;", "}"]
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "layout.c"), Path(folder, "layout")
        source.write_text("\n".join(lines) + "\n")
        compiler = os.environ.get("CC", "cc")
        subprocess.run(
            [compiler, "-std=c99", "-I", HERE.parent / "include", source, "-o", program], check=True
        )
        return subprocess.run([program], check=True, capture_output=True, text=True).stdout


def main() -> int:
    """Compare, or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="record what adfast.h says now")
    got = layout()
    if parser.parse_args().write:
        LIST.write_text(got)
        return 0
    expected = LIST.read_text()
    if got == expected:
        return 0
    changes = difflib.unified_diff(
        expected.splitlines(), got.splitlines(), "layout.txt", "adfast.h", lineterm="", n=0
    )
    print("\n".join(changes))
    print(
        "adfast.h is not what csrc/c_api/layout.txt records. Appended fields and enumerators: run "
        "csrc/c_api/layout.py --write. Anything else breaks compiled programs."
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
