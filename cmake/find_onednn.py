"""Print include folder and library of the package onednn-devel-cpu-gomp, `;` between them."""

from importlib import metadata


def located(package: str, name: str) -> str:
    """Return the absolute path of the one file of `package` whose path ends with `name`."""
    for file in metadata.distribution(package).files or []:
        if str(file).endswith(name):
            return str(file.locate().resolve())
    raise SystemExit(f"{package} has no file {name}")


header = located("onednn-devel-cpu-gomp", "/oneapi/dnnl/dnnl.hpp")
library = located("onednn-cpu-gomp", "/libdnnl.so.3")
print(header.removesuffix("/oneapi/dnnl/dnnl.hpp"), library, sep=";")
