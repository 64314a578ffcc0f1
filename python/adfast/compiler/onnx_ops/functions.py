"""The functions of the domain adfast, whose bodies in standard ops adfast.export writes."""

from __future__ import annotations

from adfast.compiler.graph import Value
from adfast.compiler.importer import Call, Unsupported
from adfast.compiler.onnx_ops.registry import function


@function
def _token_attention(call: Call) -> Value:
    return call.add("token_attention", call.values(), scale=call.attrs["scale"])


@function
def _attention(call: Call) -> Value:
    heads, scale = call.attrs.get("heads", 1), call.attrs["scale"]
    return call.add("attention", call.values(), heads=heads, scale=scale)


@function
def _window_gather(call: Call) -> Value:
    index = call.run.graph.index(f"{call.name}.index", call.constant(1, "index"))
    return call.add("window_gather", [call.value(0), index])


@function
def _projector_attention(call: Call) -> Value:
    return call.add("query_projector_attention", call.values(), scale=call.attrs["scale"])


@function
def _score_map(call: Call) -> list[Value]:
    return call.add_all("score_map", call.values())


@function
def _fuse_maps(call: Call) -> Value:
    attrs = {key: call.attrs[key] for key in ("mode", "height", "width")}
    return call.add("fuse_maps", call.values(), **attrs)


@function
def _gaussian_blur(call: Call) -> Value:
    border = call.attrs.get("border", "reflect")
    if border != "reflect":
        raise Unsupported(f"border {border!r}; only 'reflect' is available")
    return call.add("gaussian_blur", call.values())


@function
def _halo_attention(call: Call) -> Value:
    attrs = {key: call.attrs[key] for key in ("block", "halo", "heads", "scale")}
    legacy = call.attrs.get("legacy_mask", 0)
    return call.add("halo_attention", call.values(), legacy_mask=legacy, **attrs)


@function
def _gms_map(call: Call) -> Value:
    return call.add("gms_map", call.values(), c=call.attrs["c"])


@function
def _calibrate_map(call: Call) -> Value:
    call.constant(1, "mean map")
    return call.add("calibrate_map", call.values(), mode=call.attrs["mode"])
