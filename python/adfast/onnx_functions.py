"""The ONNX functions of the domain `adfast`: each body is standard operators of opset 18 only.

So a model that uses them runs as it is in ONNX Runtime, and anywhere else after
`onnx.inliner.inline_local_functions`, while our compiler sees one node where others see twenty.
Needs onnx, not torch. The formulas stand in `adfast.models.layers`.
"""

from __future__ import annotations

import onnx
import onnx.parser

DOMAIN = "adfast"
VERSION = 1
OPSET = 18

_HEADER = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>'

# Shapes in the bodies: 0 keeps a dimension, -1 infers it.
_BODIES = {
    "TokenAttention": """
TokenAttention <scale> (x, weight, bias) => (tokens)
{
    flat_shape = Constant <value_ints = [0, 0, -1]> ()
    pixels = Reshape (x, flat_shape)
    products = MatMul (weight, pixels)
    last = Constant <value_ints = [-1]> ()
    bias_column = Unsqueeze (bias, last)
    logits = Add (products, bias_column)
    factor = Constant <value_float: float = @scale> ()
    scaled = Mul (logits, factor)
    attention = Softmax <axis = -1> (scaled)
    pixels_t = Transpose <perm = [0, 2, 1]> (pixels)
    tokens = MatMul (attention, pixels_t)
}""",
    "Attention": """
Attention <heads, scale> (q, k, v) => (y)
{
    head_count = Constant <value_int: int = @heads> ()
    first = Constant <value_ints = [0]> ()
    head_vector = Unsqueeze (head_count, first)
    keep_two = Constant <value_ints = [0, 0]> ()
    infer = Constant <value_ints = [-1]> ()
    split_shape = Concat <axis = 0> (keep_two, head_vector, infer)
    q4 = Reshape (q, split_shape)
    k4 = Reshape (k, split_shape)
    v4 = Reshape (v, split_shape)
    qh = Transpose <perm = [0, 2, 1, 3]> (q4)
    kh = Transpose <perm = [0, 2, 3, 1]> (k4)
    vh = Transpose <perm = [0, 2, 1, 3]> (v4)
    products = MatMul (qh, kh)
    factor = Constant <value_float: float = @scale> ()
    scaled = Mul (products, factor)
    weights = Softmax <axis = -1> (scaled)
    attended = MatMul (weights, vh)
    joined = Transpose <perm = [0, 2, 1, 3]> (attended)
    flat_shape = Constant <value_ints = [0, 0, -1]> ()
    y = Reshape (joined, flat_shape)
}""",
    "ProjectorAttention": """
ProjectorAttention <scale>
    (query_features, features, query_weight, query_bias, key, value) => (y)
{
    flat_shape = Constant <value_ints = [0, 0, -1]> ()
    pixels = Reshape (query_features, flat_shape)
    products = MatMul (query_weight, pixels)
    last = Constant <value_ints = [-1]> ()
    bias_column = Unsqueeze (query_bias, last)
    query = Add (products, bias_column)
    logits = MatMul (key, query)
    factor = Constant <value_float: float = @scale> ()
    scaled = Mul (logits, factor)
    weights = Softmax <axis = 1> (scaled)
    value_t = Transpose <perm = [0, 2, 1]> (value)
    read = MatMul (value_t, weights)
    shape = Shape (features)
    read_map = Reshape (read, shape)
    y = Add (features, read_map)
}""",
    "ScoreMap": """
ScoreMap (a, b) => (distance, mse, cos)
{
    channel = Constant <value_ints = [1]> ()
    whole = Constant <value_ints = [1, 2, 3]> ()
    shape = Shape (a)
    two = Constant <value_ints = [2]> ()
    four = Constant <value_ints = [4]> ()
    sides = Slice (shape, two, four)
    pixels_i = ReduceProd <keepdims = 0> (sides)
    pixels = Cast <to = 1> (pixels_i)
    difference = Sub (a, b)
    squares = Mul (difference, difference)
    squared = ReduceSum <keepdims = 1> (squares, channel)
    half = Constant <value_float = 0.5> ()
    halved = Mul (squared, half)
    distance = Div (halved, pixels)
    total = ReduceSum <keepdims = 0> (squared, whole)
    mse = Div (total, pixels)
    products = Mul (a, b)
    dot = ReduceSum <keepdims = 0> (products, whole)
    aa = Mul (a, a)
    bb = Mul (b, b)
    a_norm = ReduceSum <keepdims = 0> (aa, whole)
    b_norm = ReduceSum <keepdims = 0> (bb, whole)
    norms_squared = Mul (a_norm, b_norm)
    norms = Sqrt (norms_squared)
    tiny = Constant <value_float = 1e-12> ()
    divisor = Max (norms, tiny)
    cosine = Div (dot, divisor)
    one = Constant <value_float = 1.0> ()
    cos = Sub (one, cosine)
}""",
    "GaussianBlur": """
GaussianBlur <border> (x, kernel) => (y)
{
    size = Shape (kernel)
    two = Constant <value_ints = [2]> ()
    radius = Div (size, two)
    none = Constant <value_ints = [0, 0]> ()
    pads = Concat <axis = 0> (none, radius, radius, none, radius, radius)
    padded = Pad <mode: string = @border> (x, pads)
    column_shape = Constant <value_ints = [1, 1, -1, 1]> ()
    row_shape = Constant <value_ints = [1, 1, 1, -1]> ()
    column = Reshape (kernel, column_shape)
    row = Reshape (kernel, row_shape)
    blurred = Conv (padded, column)
    y = Conv (blurred, row)
}""",
    "WindowGather": """
WindowGather (x, index) => (y)
{
    gathered = Gather <axis = 1> (x, index)
    infer = Constant <value_ints = [-1]> ()
    tokens = Shape <start = 1, end = 2> (index)
    width = Shape <start = 2, end = 3> (x)
    shape = Concat <axis = 0> (infer, tokens, width)
    y = Reshape (gathered, shape)
}""",
    "GmsMap": """
GmsMap <c> (a, b) => (y)
{
    prewitt = Constant <value = float[2, 1, 3, 3]
        {-1, 0, 1, -1, 0, 1, -1, 0, 1, -1, -1, -1, 0, 0, 0, 1, 1, 1}> ()
    third = Constant <value_float = 0.3333333333> ()
    filters = Mul (prewitt, third)
    sides = Shape <start = 2, end = 4> (a)
    plane = Constant <value_ints = [-1, 1]> ()
    planes_shape = Concat <axis = 0> (plane, sides)
    pads = Constant <value_ints = [0, 0, 1, 1, 0, 0, 1, 1]> ()
    channel = Constant <value_ints = [1]> ()
    a_planes = Reshape (a, planes_shape)
    b_planes = Reshape (b, planes_shape)
    a_padded = Pad <mode = "edge"> (a_planes, pads)
    b_padded = Pad <mode = "edge"> (b_planes, pads)
    a_gradient = Conv (a_padded, filters)
    b_gradient = Conv (b_padded, filters)
    a_squares = Mul (a_gradient, a_gradient)
    b_squares = Mul (b_gradient, b_gradient)
    aa = ReduceSum <keepdims = 1> (a_squares, channel)
    bb = ReduceSum <keepdims = 1> (b_squares, channel)
    aabb = Mul (aa, bb)
    ab = Sqrt (aabb)
    two = Constant <value_float = 2.0> ()
    ab2 = Mul (ab, two)
    constant = Constant <value_float: float = @c> ()
    numerator = Add (ab2, constant)
    sum = Add (aa, bb)
    denominator = Add (sum, constant)
    similar_planes = Div (numerator, denominator)
    shape = Shape (a)
    similar = Reshape (similar_planes, shape)
    mean = ReduceMean <keepdims = 1> (similar, channel)
    one = Constant <value_float = 1.0> ()
    y = Sub (one, mean)
}""",
    # Sides and counts come from the inputs' shapes, so one body serves every call. m and n count
    # blocks down and across, u is the side of a window; _0 is a scalar, _1 a vector of it alone.
    "HaloAttention": """
HaloAttention <block, halo, heads, scale, legacy_mask> (q, k, v, rows, columns) => (y)
{
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    two = Constant <value_int = 2> ()
    first = Constant <value_ints = [0]> ()
    one_1 = Constant <value_ints = [1]> ()
    infer = Constant <value_ints = [-1]> ()
    block_0 = Constant <value_int: int = @block> ()
    halo_0 = Constant <value_int: int = @halo> ()
    heads_0 = Constant <value_int: int = @heads> ()
    factor = Constant <value_float: float = @scale> ()
    legacy_0 = Constant <value_int: int = @legacy_mask> ()
    legacy = Cast <to = 9> (legacy_0)
    block_1 = Unsqueeze (block_0, first)
    heads_1 = Unsqueeze (heads_0, first)
    halos = Mul (halo_0, two)
    u_0 = Add (block_0, halos)
    u_1 = Unsqueeze (u_0, first)
    square = Mul (block_1, block_1)
    u_square = Mul (u_1, u_1)

    height_1 = Shape <start = 2, end = 3> (q)
    width_1 = Shape <start = 3, end = 4> (q)
    height_0 = Squeeze (height_1, first)
    width_0 = Squeeze (width_1, first)
    m_0 = Div (height_0, block_0)
    n_0 = Div (width_0, block_0)
    m = Unsqueeze (m_0, first)
    n = Unsqueeze (n_0, first)
    blocks = Mul (m, n)
    d = Shape <start = 1, end = 2> (rows)
    v_shape = Shape (v)
    v_channels = Shape <start = 1, end = 2> (v)
    dv = Div (v_channels, heads_1)

    block_steps = Range (zero, block_0, one)
    steps = Range (zero, u_0, one)
    m_steps = Range (zero, m_0, one)
    n_steps = Range (zero, n_0, one)
    m_starts = Mul (m_steps, block_0)
    n_starts = Mul (n_steps, block_0)
    m_column = Unsqueeze (m_starts, infer)
    n_column = Unsqueeze (n_starts, infer)
    m_places = Add (m_column, steps)
    n_places = Add (n_column, steps)
    block_column = Unsqueeze (block_steps, infer)
    differences = Sub (steps, block_column)
    u_last = Sub (u_0, one)
    distances = Add (differences, u_last)

    bottom = Add (halo_0, height_0)
    right = Add (halo_0, width_0)
    m_after = GreaterOrEqual (m_places, halo_0)
    m_before = Less (m_places, bottom)
    m_inside = And (m_after, m_before)
    n_after = GreaterOrEqual (n_places, halo_0)
    n_before = Less (n_places, right)
    n_inside = And (n_after, n_before)
    m_mask_shape = Concat <axis = 0> (m, one_1, u_1, one_1)
    n_mask_shape = Concat <axis = 0> (one_1, n, one_1, u_1)
    m_mask = Reshape (m_inside, m_mask_shape)
    n_mask = Reshape (n_inside, n_mask_shape)
    inside = And (m_mask, n_mask)
    kept = Xor (inside, legacy)
    kept_shape = Concat <axis = 0> (blocks, one_1, u_square)
    kept_keys = Reshape (kept, kept_shape)

    q_shape = Concat <axis = 0> (infer, d, m, block_1, n, block_1)
    q6 = Reshape (q, q_shape)
    q6t = Transpose <perm = [0, 2, 4, 3, 5, 1]> (q6)
    by_pixel = Mul (q6t, factor)

    none = Constant <value_ints = [0, 0]> ()
    halo_1 = Unsqueeze (halo_0, first)
    pads = Concat <axis = 0> (none, halo_1, halo_1, none, halo_1, halo_1)
    k_shape = Concat <axis = 0> (infer, d, height_1, width_1)
    k4 = Reshape (k, k_shape)
    k_padded = Pad <mode = "constant"> (k4, pads)
    k_rows = Gather <axis = 2> (k_padded, m_places)
    k6 = Gather <axis = 4> (k_rows, n_places)
    k6t = Transpose <perm = [0, 2, 4, 1, 3, 5]> (k6)
    k_flat_shape = Concat <axis = 0> (infer, blocks, d, u_square)
    keys = Reshape (k6t, k_flat_shape)
    v_head_shape = Concat <axis = 0> (infer, dv, height_1, width_1)
    v4 = Reshape (v, v_head_shape)
    v_padded = Pad <mode = "constant"> (v4, pads)
    v_rows = Gather <axis = 2> (v_padded, m_places)
    v6 = Gather <axis = 4> (v_rows, n_places)
    v6t = Transpose <perm = [0, 2, 4, 3, 5, 1]> (v6)
    v_flat_shape = Concat <axis = 0> (infer, blocks, u_square, dv)
    values = Reshape (v6t, v_flat_shape)

    row_table = Gather <axis = 0> (rows, distances)
    row_table_t = Transpose <perm = [0, 2, 1]> (row_table)
    column_table = Gather <axis = 0> (columns, distances)
    column_table_t = Transpose <perm = [0, 2, 1]> (column_table)
    pixel_shape = Concat <axis = 0> (infer, block_1, block_1, d)
    pixels = Reshape (by_pixel, pixel_shape)
    by_row = MatMul (pixels, row_table_t)
    pixels_t = Transpose <perm = [0, 2, 1, 3]> (pixels)
    by_column_t = MatMul (pixels_t, column_table_t)
    by_column = Transpose <perm = [0, 2, 1, 3]> (by_column_t)
    with_places = Concat <axis = 3> (pixels, by_row, by_column)
    double_u = Add (u_1, u_1)
    extended = Add (d, double_u)
    extended_shape = Concat <axis = 0> (infer, blocks, square, extended)
    queries = Reshape (with_places, extended_shape)

    u_square_0 = Mul (u_0, u_0)
    key_steps = Range (zero, u_square_0, one)
    key_rows = Div (key_steps, u_0)
    key_columns = Mod (key_steps, u_0)
    step_column = Unsqueeze (steps, infer)
    row_places_b = Equal (step_column, key_rows)
    column_places_b = Equal (step_column, key_columns)
    places_b = Concat <axis = 0> (row_places_b, column_places_b)
    places = CastLike (places_b, rows)
    groups = Shape <start = 0, end = 2> (keys)
    places_shape = Concat <axis = 0> (groups, one_1, one_1)
    all_places = Expand (places, places_shape)
    keys_with_places = Concat <axis = 2> (keys, all_places)
    logits = MatMul (queries, keys_with_places)
    lowest = Constant <value_float = -3.4028234663852886e38> ()
    kept_logits = Where (kept_keys, logits, lowest)
    weights = Softmax <axis = -1> (kept_logits)
    read = MatMul (weights, values)
    read_shape = Concat <axis = 0> (infer, m, n, block_1, block_1, dv)
    read6 = Reshape (read, read_shape)
    read6t = Transpose <perm = [0, 5, 1, 3, 2, 4]> (read6)
    y = Reshape (read6t, v_shape)
}""",
}

# How CalibrateMap measures the difference from the mean.
_CALIBRATIONS = {
    "square": "y = Mul (difference, difference)",
    "absolute": "y = Abs (difference)",
}

_FUSE_LAYER = """
    index{l} = Constant <value_int = {i}> ()
    lambda{l} = Gather <axis = 0> (alpha_scale, index{l})
    scaled{l} = Mul (cos{l}, lambda{l})
    sum{l} = Add (mse{l}, scaled{l})
    product{l} = Mul (scaled{l}, mse{l})
    positive{l} = Greater (sum{l}, zero)
    divisor{l} = Where (positive{l}, sum{l}, one)
    quotient{l} = Div (product{l}, divisor{l})
    alpha{l} = Where (positive{l}, quotient{l}, zero)
    alpha_map{l} = Unsqueeze (alpha{l}, inner)
    resized{l} = Resize <axes = [2, 3], mode = "linear",
        coordinate_transformation_mode = "half_pixel"> (map{l}, , , size)
    m{l} = Mul (alpha_map{l}, resized{l})"""

# Table 7 of the GTrans paper: mode -> (layers that are used, how they are combined).
_FUSIONS = {
    1: ((3,), "y = Identity (m3)"),
    2: ((1, 3), "y = Mul (m1, m3)"),
    3: ((2, 3), "y = Mul (m2, m3)"),
    4: ((1, 2, 3), "m12 = Add (m1, m2)\n    y = Add (m12, m3)"),
    5: ((1, 2, 3), "m12 = Mul (m1, m2)\n    y = Mul (m12, m3)"),
    6: ((1, 2, 3), "m13 = Mul (m1, m3)\n    m23 = Mul (m2, m3)\n    y = Add (m13, m23)"),
}


def _fuse_maps_body(mode: int) -> str:
    used, combine = _FUSIONS[mode]
    steps = "".join(_FUSE_LAYER.format(l=layer, i=layer - 1) for layer in used)
    return f"""
FuseMaps <mode, height, width>
    (map1, mse1, cos1, map2, mse2, cos2, map3, mse3, cos3, alpha_scale) => (y)
{{
    first = Constant <value_ints = [0]> ()
    inner = Constant <value_ints = [1, 2, 3]> ()
    zero = Constant <value_float = 0.0> ()
    one = Constant <value_float = 1.0> ()
    h = Constant <value_int: int = @height> ()
    w = Constant <value_int: int = @width> ()
    h1 = Unsqueeze (h, first)
    w1 = Unsqueeze (w, first)
    size = Concat <axis = 0> (h1, w1){steps}
    {combine}
}}"""


def _calibrate_map_body(mode: str) -> str:
    return f"""
CalibrateMap <mode> (x, mean) => (y)
{{
    difference = Sub (x, mean)
    {_CALIBRATIONS[mode]}
}}"""


_BODIES_BY_MODE = {"FuseMaps": _fuse_maps_body, "CalibrateMap": _calibrate_map_body}


def function(name: str, *, mode: int | str | None = None) -> onnx.FunctionProto:
    """Return one function of the domain.

    Args:
        name: of the function, as its nodes have it.
        mode: what FuseMaps (fusion 1..6) or CalibrateMap ("square" or "absolute") is written for;
            the others ignore it.

    Raises:
        KeyError: no such function or mode.
    """
    by_mode = _BODIES_BY_MODE.get(name)
    body = by_mode(mode) if by_mode else _BODIES[name]
    return onnx.parser.parse_function(_HEADER + body)


def append_functions(model: onnx.ModelProto) -> None:
    """Give a model, in place, the body of every `adfast` function that its graph calls."""
    present = {f.name for f in model.functions if f.domain == DOMAIN}
    for node in model.graph.node:
        if node.domain == DOMAIN and node.op_type not in present:
            present.add(node.op_type)
            modes = [a.s.decode() or a.i for a in node.attribute if a.name == "mode"]
            model.functions.append(function(node.op_type, mode=modes[0] if modes else None))
    if present and DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
