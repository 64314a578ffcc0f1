"""Whether tensors of a file fit a module, said by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor


def misfit(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], optional: Collection[str] = ()
) -> str:
    """List the keys that are missing, unknown or of another shape; "" if there are none.

    Args:
        wanted: the module's state dict.
        given: the tensors of the file.
        optional: keys of `wanted` that may be missing.
    """
    problems = [f"missing {key}" for key in sorted(wanted.keys() - given.keys() - set(optional))]
    problems += [f"unknown {key}" for key in sorted(given.keys() - wanted.keys())]
    problems += [
        f"{key} is {list(given[key].shape)}, expected {list(wanted[key].shape)}"
        for key in sorted(wanted.keys() & given.keys())
        if given[key].shape != wanted[key].shape
    ]
    more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
    return "; ".join(problems[:8]) + more
