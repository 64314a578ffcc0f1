"""InTra against slow, literal twins of the paper's equations."""

import itertools
import math

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from adfast import models  # noqa: E402
from adfast.errors import ModelError  # noqa: E402
from adfast.models import layers  # noqa: E402
from adfast.models.intra import InTra, InTraConfig, turned, window_corner  # noqa: E402
from adfast.models.similarity import ssim_map  # noqa: E402

TINY = {"patch": 8, "window": 3, "width": 16, "blocks": 3, "heads": 4, "crop": (32, 48)}
TINY |= {"resize": (40, 50), "visit_windows": 2, "validation_windows": 5}


def make(seed=0, **changes):
    """A model whose norms and positions are not those of an untrained one."""
    torch.manual_seed(seed)
    model = InTra(InTraConfig(**TINY | changes))
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    torch.nn.init.normal_(model.position)
    torch.nn.init.normal_(model.inpaint)
    return model


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def close(actual, expected, tolerance=1e-5):
    expected = torch.as_tensor(np.asarray(expected)).double()
    atol = tolerance * expected.abs().max().item()
    torch.testing.assert_close(actual.detach().double(), expected, rtol=tolerance, atol=atol)


def test_config_round_trip_and_refusals():
    config = InTraConfig(**TINY)
    assert InTraConfig.from_dict(config.to_dict()) == config
    assert InTraConfig.from_dict({}) == InTraConfig()
    assert InTraConfig().grid == (16, 16) and config.grid == (4, 6)
    for changes, message in [
        ({"patch": 0}, "patch is 0, expected at least 1"),
        ({"window": 1}, "window is 1, expected at least 2"),
        ({"width": 17}, "heads is 4, expected a divisor of width, 17"),
        (
            {"heads": 8, "width": 24},
            "feature_factor is 0.5, expected .* 12, is a positive multiple",
        ),
        ({"mlp_factor": 0}, "mlp_factor"),
        ({"attention": "mha"}, "attention is 'mha', expected mfsa or msa"),
        ({"feature_hidden": 0}, "feature_hidden"),
        ({"positions": "both"}, "positions is 'both', expected global or local"),
        ({"norm_eps": 0}, "norm_eps"),
        ({"epoch_windows": 0}, "epoch_windows"),
        ({"visit_windows": 0}, "visit_windows"),
        ({"validation_windows": 0}, "validation_windows"),
        ({"alpha": -1}, "alpha"),
        ({"beta": -1}, "beta"),
        ({"gms_c": 0}, "gms_c"),
        ({"ssim_window": 4}, "ssim_window is 4, expected an odd number"),
        ({"ssim_sigma": 0}, "ssim_sigma"),
        ({"scales": ()}, "scales"),
        ({"scales": (2, 0)}, "scales"),
        ({"filters": (21,)}, "filters is .21,., expected as many sides as scales, 2"),
        ({"filter_side": 0}, "filter_side"),
        ({"gaussian_sigma": 0}, "gaussian_sigma"),
        ({"mean_map_images": 0}, "mean_map_images"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean is .*, expected zeros"),
        ({"std": (0.5, 0.5, 0.5)}, "std is .*, expected ones"),
        ({"crop": (16, 48)}, "crop is .16, 48., expected two sides of at least 24"),  # < L patches
        ({"crop": (36, 48)}, "crop is .36, 48., expected two multiples of patch and scales"),
        ({"patch": 9, "crop": (36, 45)}, "expected two multiples of patch and scales .9, 2, 4"),
        ({"filters": (21, 300)}, "1/4 of the image is larger than 9, half of its filter"),
        ({"resize": (30, 50)}, "resize is .30, 50., expected at least the crop"),
        ({"colour": 1}, "unknown config fields: colour"),
    ]:
        with pytest.raises(ModelError, match=message):
            InTraConfig.from_dict(TINY | changes)


def test_filters_scale_with_the_image():
    """Section 4.1: 21 and 11 at 512, in proportion at other sizes; odd."""
    expected = {512: (21, 11), 320: (13, 7), 256: (11, 5), 128: (5, 3), 64: (3, 1)}
    for side, sizes in expected.items():
        config = InTraConfig(crop=(side, side), resize=(side, side), window=2)
        assert config.filter_sizes == sizes
    wide = InTraConfig(crop=(256, 512), resize=(256, 512))
    assert wide.filter_sizes == (11, 5)


def test_the_size_of_the_paper():
    """Section 4.1: about 55 million parameters, F = 256, heads of 32."""
    with torch.device("meta"):
        model = InTra(InTraConfig())
        wide = InTra(InTraConfig(crop=(512, 512), resize=(512, 512)))
    count = sum(p.numel() for p in model.parameters())
    features = 512 * 1024 + 1024 + 1024 * 256  # and 256 biases of the queries
    block = 2 * 2 * 512 + 2 * features + 256 + 2 * 512 * 512 + (512 * 2048 + 2048) + 2048 * 512
    block += 512
    patches = 768 * 512 + 256 * 512 + 512 + 512 * 768 + 768
    assert count == 13 * block + patches == 55_534_592
    assert round(count / 1e6) in (55, 56)
    assert sum(p.numel() for p in wide.parameters()) == count + (1024 - 256) * 512
    assert len(model.blocks) == 13 and model.blocks[0].heads == 8
    assert model.blocks[0].scale == pytest.approx(1 / math.sqrt(32))
    assert model.visits == 75 and InTra(InTraConfig(**TINY)).visits == 300
    assert make(epoch_windows=7).visits == 4


def literal_corner(c, length, side):
    """Eq. 13-15 as printed: positions count from 1."""
    g = max(1, c - math.floor(length / 2))
    return g - max(0, g + length - side - 1)


@pytest.mark.parametrize("length, side", [(7, 16), (7, 7), (7, 8), (5, 9), (2, 3), (4, 6)])
def test_windows_are_those_of_the_equations(length, side):
    for c in range(1, side + 1):
        begin = window_corner(c - 1, length, side)
        assert begin == literal_corner(c, length, side) - 1
        assert 0 <= begin <= c - 1 < begin + length <= side


def test_the_hidden_patch_is_in_the_middle():
    assert [c - window_corner(c, 7, 16) for c in range(16)] == [0, 1, 2, *[3] * 10, 4, 5, 6]


def windows_of(grid, length):
    """Eq. 5 for every patch: the hidden patch first, then the others in raster order."""
    rows, columns = grid
    for t, u in itertools.product(range(rows), range(columns)):
        r = literal_corner(t + 1, length, rows) - 1
        s = literal_corner(u + 1, length, columns) - 1
        inside = list(itertools.product(range(r, r + length), range(s, s + length)))
        yield (t, u), (r, s), [(t, u)] + [patch for patch in inside if patch != (t, u)]


def test_window_index():
    model = make()
    rows, columns = model.config.grid
    index = model.window_index
    assert index.shape == (24, 9) and index.dtype == torch.int64
    for w, (_, _, patches) in enumerate(windows_of((rows, columns), 3)):
        expected = [i * columns + j for i, j in patches]
        assert index[w].tolist() == [expected[0] + rows * columns, *expected[1:]]


def matrix(linear):
    weight = linear.weight.detach().double().numpy().T
    bias = 0 if linear.bias is None else linear.bias.detach().double().numpy()
    return lambda x: x @ weight + bias


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def norm(x, module):
    centred = x - x.mean(axis=-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + module.eps)
    return y * module.weight.detach().double().numpy() + module.bias.detach().double().numpy()


def features(x, module):
    """Eq. 6 or eq. 10."""
    if isinstance(module, torch.nn.Linear):
        return matrix(module)(x)
    return matrix(module[2])(gelu(matrix(module[0])(x)))


def transform(x, block):
    """A block of figure 3 for one window [t, D], head by head (eq. 7-9)."""
    y = norm(x, block.attention_norm)
    q, k, v = features(y, block.query), features(y, block.key), matrix(block.value)(y)
    heads = []
    for head in range(block.heads):
        part = [slice(head * z.shape[1] // block.heads, (head + 1) * z.shape[1] // block.heads)
                for z in (q, v)]  # fmt: skip
        logits = q[:, part[0]] @ k[:, part[0]].T / math.sqrt(q.shape[1] / block.heads)
        weights = np.exp(logits)
        heads.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, part[1]])
    x = x + matrix(block.output)(np.concatenate(heads, axis=1))
    hidden = gelu(matrix(block.hidden[0])(norm(x, block.mlp_norm)))
    return x + matrix(block.mlp_output)(hidden)


def inpaint(model, image, corner, patches):
    """Sections 3.1-3.3 for one window of one image [3, H, W]; returns the patch [3, K, K]."""
    config = model.config
    side, columns = config.patch, config.grid[1]
    projection = model.projection.weight.detach().double().numpy()
    position = model.position[0].detach().double().numpy()
    tokens = []
    for place, (i, j) in enumerate(patches):
        if config.positions == "global":
            f = i * columns + j
        else:
            f = (i - corner[0]) * config.window + j - corner[1]
        if place == 0:
            token = model.inpaint[0, 0].detach().double().numpy()
        else:
            patch = image[:, i * side : (i + 1) * side, j * side : (j + 1) * side]
            token = (projection * patch).sum(axis=(1, 2, 3))
        tokens.append(token + position[f])
    x = np.stack(tokens)
    outputs = []
    last = len(model.blocks)
    # Of 13 blocks, counted from 0: 7 adds the output of 5, 8 of 4, ... 12 of 0.
    partner = {last - 1 - i: i for i in range((last - 1) // 2)} if config.long_skips else {}
    for i, block in enumerate(model.blocks):
        if i in partner:
            x = x + outputs[partner[i]]
        x = transform(x, block)
        outputs.append(x)
    pixels = matrix(model.output)(x.mean(axis=0))
    painted = np.zeros((3, side, side))
    for a, b, c in itertools.product(range(side), range(side), range(3)):
        painted[c, a, b] = pixels[(a * side + b) * 3 + c]
    return painted


def reconstruct(model, image):
    """Section 3.5: every patch from its own window."""
    result, side = np.zeros(image.shape), model.config.patch
    for (t, u), corner, patches in windows_of(model.config.grid, model.config.window):
        painted = inpaint(model, image, corner, patches)
        result[:, t * side : (t + 1) * side, u * side : (u + 1) * side] = painted
    return result


CHOICES = [
    {},
    {"positions": "local"},
    {"attention": "msa"},
    {"positions": "local", "attention": "msa", "blocks": 5, "crop": (48, 24)},
    {"long_skips": False, "blocks": 4},
    {"blocks": 4, "window": 2, "feature_hidden": 1.0, "feature_factor": 1.0},
    {"blocks": 1, "crop": (24, 24), "mlp_factor": 1.5},
]


@pytest.mark.parametrize("changes", CHOICES, ids=str)
def test_reconstruction(changes):
    """What is computed once per patch, gathered and averaged early, equals window by window."""
    model = make(**{"resize": (50, 50), **changes})
    image = rand(2, 3, *model.config.crop)
    with torch.no_grad():
        actual = model.reconstruct(image)
    for n in range(2):
        close(actual[n], reconstruct(model, image[n].double().numpy()))


@pytest.mark.parametrize("changes", CHOICES[:4], ids=str)
def test_painting_any_windows(changes):
    """What is trained paints as what is deployed does, and may hide any patch of a window."""
    model = make(**{"resize": (50, 50), **changes})
    image = rand(2, 3, *model.config.crop)
    length, (rows, columns) = model.config.window, model.config.grid
    corner = torch.tensor([[[0, 0], [rows - length, columns - length]], [[1, 0], [1, 0]]])
    place = torch.tensor([[0, length**2 - 1], [4, 2]])
    with torch.no_grad():
        painted = model.paint(image, corner, place)
    for n, w in itertools.product(range(2), range(2)):
        r, s = corner[n, w].tolist()
        inside = list(itertools.product(range(r, r + length), range(s, s + length)))
        hidden = inside.pop(int(place[n, w]))
        expected = inpaint(model, image[n].double().numpy(), (r, s), [hidden, *inside])
        close(painted[2 * n + w], expected)


def test_long_skips_of_the_paper():
    """Of 13 blocks, block 7 + j gets the output of block 5 - j on top; block 6 is unpaired."""
    model = make(blocks=13, crop=(24, 24), resize=(24, 24))
    inputs, outputs = {}, {}
    for i, block in enumerate(model.blocks):

        def attend(x, q, k, v, i=i, whole=block.attend):
            inputs[i] = x
            return whole(x, q, k, v)

        def think(x, i=i, whole=block.think):
            outputs[i] = whole(x)
            return outputs[i]

        block.attend, block.think = attend, think
    with torch.no_grad():
        model.reconstruct(rand(1, 3, 24, 24))
    for i in range(1, 13):
        expected = outputs[i - 1]
        if i >= 7:
            expected = expected + outputs[5 - (i - 7)]
        assert torch.equal(inputs[i], expected), i


def test_the_hidden_patch_is_not_seen():
    """Painting a patch does not depend on it, and depends on every other one of its window only."""
    model = make(crop=(64, 64), resize=(64, 64))
    image = rand(1, 3, 64, 64).requires_grad_()
    # Patch (4, 4) is painted from rows and columns 3 to 5.
    model.reconstruct(image)[:, :, 32:40, 32:40].sum().backward()
    seen = image.grad[0].abs().sum(dim=0).unfold(0, 8, 8).unfold(1, 8, 8).sum(dim=(2, 3)) > 0
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[3:6, 3:6] = True
    expected[4, 4] = False
    assert torch.equal(seen, expected)


def test_loss():
    """Eq. 11-12 of each window by itself; SSIM and GMS have twins of their own."""
    model = make(alpha=0.3, beta=0.2)
    image = rand(2, 3, 32, 48)
    corner, place = torch.tensor([[[0, 1], [1, 3]]] * 2), torch.tensor([[0, 5], [8, 4]])
    with torch.no_grad():
        painted = model.paint(image, corner, place)
        losses = model.window_losses(image, corner, place)
    expected = torch.zeros(2, 2)
    for n, w in itertools.product(range(2), range(2)):
        row = int(corner[n, w, 0]) + int(place[n, w]) // 3
        column = int(corner[n, w, 1]) + int(place[n, w]) % 3
        x = image[n : n + 1, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        y = painted[2 * n + w][None]
        expected[n, w] = (x - y).square().mean()
        expected[n, w] += 0.3 / 64 * layers.gms_map(x, y, 0.0026).sum()
        expected[n, w] += 0.2 / 64 * (1 - ssim_map(x, y).mean(dim=1)).sum()
    assert losses.dtype == torch.float32
    close(losses, expected.mean(dim=1))


def test_training_draws_windows_and_validation_does_not():
    model = make(augment=False)
    image = rand(3, 3, 32, 48)
    with torch.no_grad():
        first, second = model.losses(image), model.losses(image)
        assert torch.equal(first, second) and first.shape == (3,)
        # The same windows for an image whatever the batch around it.
        close(model.losses(image[1:2]), first[1:2], 1e-6)
        torch.manual_seed(1)
        random_state = torch.get_rng_state()
        model.losses(image)
        assert torch.equal(torch.get_rng_state(), random_state)
        model.train()
        drawn = [model.losses(image) for _ in range(3)]
        torch.manual_seed(1)
        again = model.losses(image)
    assert torch.equal(again, drawn[0])
    assert not torch.equal(drawn[1], drawn[0]) and not torch.equal(drawn[2], drawn[1])
    assert model.losses(image, []).shape == (3,)  # as the loop calls it where features are kept
    # Five windows in parts of two average as in one.
    corner, place = model.windows.draw(5, torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model.window_losses(image, corner.expand(3, -1, -1), place.expand(3, -1))
    close(first, whole, 1e-6)


def test_windows_are_drawn_from_everywhere():
    torch.manual_seed(0)
    corner, place = make().windows.draw(2000)
    found = {tuple(row) for row in torch.cat((corner, place[:, None]), dim=1).tolist()}
    assert found == set(itertools.product(range(2), range(4), range(9)))


def test_augmentation():
    """All eight ways to lay a square, four of another image; the images themselves are kept."""
    torch.manual_seed(0)
    for crop, count in (((4, 4), 8), ((4, 6), 4)):
        image = rand(1, 3, *crop)
        found = {tuple(x.flatten().tolist()) for x in turned(image.expand(200, -1, -1, -1))}
        assert len(found) == count and tuple(image.flatten().tolist()) in found
    model, image = make(), rand(1, 3, 32, 48)
    model.train()
    torch.manual_seed(0)
    with torch.no_grad():
        losses = [model.losses(image) for _ in range(2)]
        torch.manual_seed(0)
        flipped = turned(image)
        expected = model.window_losses(flipped, *model._drawn(1, 2, None))
    assert torch.equal(losses[0], expected)


@pytest.mark.parametrize("changes", CHOICES[:4], ids=str)
def test_every_parameter_learns(changes):
    model = make(**{"resize": (50, 50), **changes}).train()
    image = rand(2, 3, *model.config.crop)
    for _ in range(12):  # until every global position was in some window
        model.loss(image).backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad
        gradient = parameter.grad
        assert gradient is not None and gradient.isfinite().all(), name
        assert (gradient.flatten(0, -2) if gradient.dim() > 1 else gradient).abs().max() > 0, name
    assert (model.position.grad.abs().sum(dim=2) > 0).all()


def test_training_under_autocast_is_near():
    model = make().eval()
    image = rand(2, 3, 32, 48)
    with torch.no_grad():
        expected = model.losses(image)
        with torch.autocast("cpu", torch.bfloat16):
            actual = model.losses(image)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0)


def box(x, size):
    """Mean of what lies within size // 2 of each pixel."""
    half = size // 2
    result = np.zeros_like(x)
    for i, j in np.ndindex(*x.shape):
        result[i, j] = x[max(0, i - half) : i + half + 1, max(0, j - half) : j + half + 1].mean()
    return result


def blur(x, size, sigma):
    half = size // 2
    weights = np.exp(-((np.arange(size) - half) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    padded = np.pad(x, half, mode="reflect")
    rows = sum(w * padded[k : k + x.shape[0]] for k, w in enumerate(weights))
    return sum(w * rows[:, k : k + x.shape[1]] for k, w in enumerate(weights))


def bilinear(grid, height, width):
    result = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        v = min(max((y + 0.5) * grid.shape[0] / height - 0.5, 0), grid.shape[0] - 1)
        u = min(max((x + 0.5) * grid.shape[1] / width - 0.5, 0), grid.shape[1] - 1)
        below, right = min(int(v) + 1, grid.shape[0] - 1), min(int(u) + 1, grid.shape[1] - 1)
        a, b = v - int(v), u - int(u)
        top = (1 - b) * grid[int(v), int(u)] + b * grid[int(v), right]
        result[y, x] = (1 - a) * top + a * ((1 - b) * grid[below, int(u)] + b * grid[below, right])
    return result


def test_map_and_score():
    """Eq. 16-18, step by step."""
    model = make(filters=(5, 3), filter_side=32)
    assert model.config.filter_sizes == (5, 3)
    image = rand(2, 3, 32, 48)
    model.mean_map.copy_(0.1 * rand(1, 1, 32, 48, seed=1))
    with torch.no_grad():
        painted = model.reconstruct(image)
        difference = model.uncalibrated_map(image)
        score, anomaly_map = model(image)
    assert model.has_mean_map and "mean_map" not in model.state_dict()
    assert difference.shape == anomaly_map.shape == (2, 1, 32, 48)
    for n in range(2):
        expected = np.zeros((32, 48))
        for scale, size in ((2, 5), (4, 3)):
            small = [
                x[n : n + 1].unfold(2, scale, scale).unfold(3, scale, scale).mean(dim=(4, 5))
                for x in (image, painted)
            ]
            d_g = layers.gms_map(*small, 0.0026)[0, 0].double().numpy()
            expected += bilinear(blur(box(d_g, size), size, 2.0), 32, 48) / 2
        close(difference[n, 0], expected)
        expected = (expected - model.mean_map[0, 0].double().numpy()) ** 2
        close(anomaly_map[n, 0], expected)
        close(score[n], expected.max())


def test_other_scales():
    model = make(scales=(1,), filters=(1,))
    assert model.config.filter_sizes == (1,)
    image = rand(1, 3, 32, 48)
    with torch.no_grad():
        expected = layers.gms_map(image, model.reconstruct(image), 0.0026)
        assert torch.equal(model.uncalibrated_map(image), expected)


def test_an_untrained_model_paints_grey():
    torch.manual_seed(0)
    with torch.no_grad():
        painted = InTra(InTraConfig(**TINY)).reconstruct(rand(1, 3, 32, 48))
    assert (painted - 0.5).abs().mean() < 0.05


def test_the_model_by_name_and_its_weights():
    model = models.create("intra", TINY)
    assert isinstance(model, InTra) and model.frozen_features(rand(1, 3, 32, 48)) == []
    _, info = InTra.from_weights(InTraConfig(**TINY), "none")
    assert info == {"source": "none"}
    for weights in ("hub", "vit.safetensors"):
        with pytest.raises(ModelError, match="trained from scratch"):
            InTra.from_weights(InTraConfig(**TINY), weights)
    fields = model.map_fields()
    assert fields["calibration"] == "square" and fields["smoothing"]["sigma"] == 2.0
