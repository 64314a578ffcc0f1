"""The passes, in the order in which they run. Each is a function that changes a graph in place.

A pass says how much it changed. Between passes the graph is checked, so that a broken graph is
blamed on the pass that broke it; any pass but the required ones can be switched off to find the one
that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from adfast.compiler.graph import Graph
from adfast.compiler.passes.drop_token_bias import drop_token_bias
from adfast.compiler.passes.fold_batch_norm import fold_batch_norm
from adfast.compiler.passes.fold_constants import fold_constants
from adfast.compiler.passes.fold_input_normalization import fold_input_normalization
from adfast.compiler.passes.fold_pad import fold_pad
from adfast.compiler.passes.fold_scale_and_bias import fold_scale_and_bias
from adfast.compiler.passes.fuse_activation import fuse_activation
from adfast.compiler.passes.fuse_projector_score import fuse_projector_score
from adfast.compiler.passes.fuse_residual import fuse_residual
from adfast.compiler.passes.lower_batch_norm import lower_batch_norm
from adfast.compiler.passes.merge_linears import merge_linears
from adfast.compiler.passes.reassociate_projector import reassociate_projector
from adfast.compiler.passes.recognise_activations import recognise_activations
from adfast.compiler.passes.recognise_tokens import recognise_tokens
from adfast.compiler.passes.remove_dead import remove_dead
from adfast.compiler.passes.remove_identities import remove_identities
from adfast.compiler.passes.share_common import share_common
from adfast.errors import CompileError


@dataclass(frozen=True)
class Pass:
    """`required` passes replace ops that the engine does not have."""

    run: Callable[[Graph], int]
    required: bool = False

    @property
    def name(self) -> str:
        """What `--passes-off` calls it."""
        return self.run.__name__


table = (
    Pass(remove_identities, required=True),
    Pass(fold_constants),
    Pass(recognise_tokens, required=True),
    Pass(fold_pad, required=True),
    Pass(share_common),
    Pass(recognise_activations),
    # What only the written-out forms read would keep its layer from being seen as a neighbour.
    Pass(remove_dead),
    Pass(fold_input_normalization),
    Pass(fold_batch_norm),
    Pass(lower_batch_norm, required=True),
    Pass(reassociate_projector, required=True),
    # Sums and products behind a layer go first, or the layers below would not be seen as
    # neighbours.
    Pass(fold_scale_and_bias),
    Pass(merge_linears),
    Pass(drop_token_bias),
    Pass(fuse_residual),
    Pass(fuse_activation),
    Pass(fuse_projector_score),
    Pass(remove_dead),
)


def run_passes(
    graph: Graph,
    disable: Iterable[str] = (),
    log: Callable[[str], None] | None = None,
) -> Graph:
    """Return an optimised copy of `graph`.

    Args:
        graph: not changed.
        disable: names of passes to leave out.
        log: called with one line for each pass that changed something.

    Raises:
        CompileError: a name is unknown or the pass is required; or a pass broke the graph.
    """
    off = set(disable)
    optional = sorted({each.name for each in table if not each.required})
    for name in sorted(off - set(optional)):
        required = any(each.name == name for each in table)
        reason = "cannot be switched off: the engine needs it" if required else "does not exist"
        raise CompileError(f"pass {name!r} {reason}; those that can: {', '.join(optional)}")
    graph = graph.copy()
    graph.check()
    for each in table:
        if each.name in off:
            continue
        try:
            count = each.run(graph)
            graph.check()
        except CompileError as error:
            raise CompileError(f"pass {each.name} broke the graph: {error}") from error
        if count and log is not None:
            log(f"{each.name}: {count}")
    return graph
