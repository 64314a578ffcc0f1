"""SAAE and its ViT trunks against timm, numpy and slow, explicit twins of the paper's equations."""

import math
import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from adfast.errors import ModelError  # noqa: E402
from adfast.models.backbones import import_timm, read_tensors  # noqa: E402
from adfast.models.saae import SAAE, SAAEConfig, latent_width  # noqa: E402
from adfast.models.vit import create_vit, load_vit, load_vit_state, vit_features  # noqa: E402

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("ADFAST_TEST_DATA", ROOT.parent / "shared" / "data"))
REAL = DATA / "weights" / "vit_tiny_patch16_224_tinyimagenet200.npz"

TINY = {"backbone": "vit_tiny_patch16_224", "layers": (0, 1, 2), "crop": (32, 48)}
TINY |= {"resize": (40, 50), "width": 12, "mlp_factor": 1.5}


def randomise(model, seed=0):
    """Give norms, positions and the decoder's query the values that a training would."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.LayerNorm)):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    model.transformer.position.data.normal_(0, 1, generator=generator)
    model.transformer.query.data.normal_(0, 1, generator=generator)
    return model


def make(**changes):
    torch.manual_seed(0)
    return randomise(SAAE(SAAEConfig(**TINY | changes)))


@pytest.fixture(scope="module")
def tiny():
    return make()


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def equal(actual, expected, tolerance=1e-5):
    expected = torch.as_tensor(np.asarray(expected))
    torch.testing.assert_close(
        actual.detach().double(),
        expected.double(),
        rtol=tolerance,
        atol=tolerance * expected.abs().max().item(),
    )


def test_config_round_trip_and_refusals():
    config = SAAEConfig(**TINY)
    assert SAAEConfig.from_dict(config.to_dict()) == config
    assert SAAEConfig().blocks == 4 and SAAEConfig(layers=[0]).blocks == 0
    with pytest.raises(ModelError, match="unknown config fields: colour"):
        SAAEConfig.from_dict({"colour": 1})
    for field, value in [
        ("layers", ()),
        ("layers", (1, 0)),
        ("layers", (-1, 0)),
        ("width", 10),
        ("width", 0),
        ("heads", 0),
        ("pca_variance", 0),
        ("pca_variance", 1.1),
        ("pca_positions", 0),
        ("mlp_factor", 0),
        ("depth", 0),
        ("norm_eps", 0),
        ("resize", (100, 400)),
    ]:
        with pytest.raises(ModelError, match=field):
            SAAEConfig(**{field: value})


def test_shapes_of_the_paper():
    """Section 4.1.2 and table 1: f of 24x24x3840 from 4 of 12 blocks; V between CE and CD."""
    with torch.device("meta"):
        model = SAAE(SAAEConfig(width=120))
        (f,) = model.frozen_features(torch.rand(1, 3, 384, 384))
        g = model.encoder(f)
        score, anomaly_map = model(torch.rand(2, 3, 384, 384))
    assert tuple(f.shape) == (1, 3840, 24, 24) and tuple(g.shape) == (1, 120, 24, 24)
    assert tuple(score.shape) == (2,) and tuple(anomaly_map.shape) == (2, 1, 384, 384)
    assert len(model.vit.blocks) == 4
    kinds = ["Conv2d", "BatchNorm2d", "ReLU"] * 2 + ["Conv2d"]
    middle = (3840 + 2 * 120) // 2
    for part, widths in (
        (model.encoder, [3840, middle, 240, 120]),
        (model.decoder, [120, 240, middle, 3840]),
    ):
        assert [type(m).__name__ for m in part] == kinds
        convolutions = part[::3]
        assert [c.in_channels for c in convolutions] == widths[:-1]
        assert [c.out_channels for c in convolutions] == widths[1:]
        assert {c.kernel_size for c in convolutions} == {(1, 1)}
    transformer = model.transformer
    assert (len(transformer.encoder), len(transformer.decoder)) == (1, 1)
    assert transformer.encoder[0].attention.heads == 3
    assert transformer.encoder[0].hidden.out_features == 2 * 120  # objects
    assert tuple(transformer.position.shape) == (1, 576, 120)
    assert not [key for key in model.state_dict() if key.startswith(("vit.norm", "vit.head"))]


def test_the_mlp_of_textures_is_v_wide():
    with torch.device("meta"):
        model = SAAE(SAAEConfig(**TINY | {"mlp_factor": 1}))
    assert model.transformer.decoder[0].hidden.out_features == 12


@pytest.mark.parametrize("layers", [(0, 1, 2), (2,), (0,), (1, 3)])
def test_choice_of_layers(layers):
    model = make(layers=layers)
    assert len(model.vit.blocks) == max(layers)
    (f,) = model.frozen_features(rand(2, 3, 32, 48))
    assert f.shape == (2, 192 * len(layers), 2, 3)
    score, anomaly_map = model(rand(2, 3, 32, 48))
    assert score.shape == (2,) and anomaly_map.shape == (2, 1, 32, 48)
    equal(score, anomaly_map.detach().amax(dim=(1, 2, 3)))


def test_features_are_the_projection_and_the_blocks(tiny):
    """Eq. 1, pixel by pixel: each position of f is its patch, in every layer."""
    image = rand(1, 3, 32, 48)
    (f,) = tiny.frozen_features(image)
    projection = tiny.vit.patch_embed.proj
    x = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    tokens = vit_features(tiny.vit, x, (0, 1, 2))
    for i in range(2):
        for j in range(3):
            patch = x[0, :, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16]
            z0 = (projection.weight * patch).sum(dim=(1, 2, 3)) + projection.bias
            equal(f[0, :192, i, j], z0.detach())
            for layer in (1, 2):
                z = tokens[layer][0, 3 * i + j]
                assert torch.equal(f[0, 192 * layer : 192 * (layer + 1), i, j], z)


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",  # two class tokens
        "vit_small_patch14_reg4_dinov2",  # registers, layer scale, patches of 14
    ],
)
def test_trunks_are_those_of_timm(name):
    side = 14 if "14" in name else 16
    size = (2 * side, 3 * side)
    whole = import_timm().create_model(name, img_size=size, num_classes=0).eval()
    trunk = create_vit(name, size, 2)
    load_vit_state(trunk, whole.state_dict(), "timm")
    image = rand(2, 3, *size)
    with torch.no_grad():
        expected = whole.forward_intermediates(
            image, indices=[0, 1], intermediates_only=True, output_fmt="NLC"
        )
        actual = vit_features(trunk, image, (1, 2))
        for a, b in zip(actual, expected, strict=True):
            equal(a, b)
    assert len(trunk.blocks) == 2
    assert not [p for p in trunk.parameters() if p.requires_grad]


def test_bad_backbones_are_refused():
    for name, size, depth, message in [
        ("vit_tiny_patch16_225", (32, 32), 1, "did you mean vit_tiny_patch16_224"),
        ("vit_tiny_patch16_224.unheard_of", (32, 32), 1, "unheard_of"),
        ("resnet18", (32, 32), 1, "is a ResNet, expected a plain VisionTransformer"),
        ("vit_base_patch16_xp_224", (32, 32), 1, "only the plain one"),
        ("vit_tiny_patch16_224", (32, 40), 1, "16x16: they do not tile a crop of 32x40"),
        ("vit_tiny_patch16_224", (32, 32), 13, "has 12 blocks"),
    ]:
        with pytest.raises(ModelError, match=message):
            create_vit(name, size, depth)


def test_hub_offline_says_what_to_do(monkeypatch):
    timm = import_timm()
    create = timm.create_model

    def offline(*args, pretrained=False, **kwargs):
        if pretrained:
            raise ConnectionError("no route")
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ModelError, match="--weights FILE") as error:
        load_vit("vit_tiny_patch16_224", "hub", (32, 32), 1)
    assert "vit_tiny_patch16_224.augreg_in21k_ft_in1k" in str(error.value)
    assert "no route" in str(error.value)


def test_missing_extra_and_misshapen_keys_are_listed():
    trunk = create_vit("vit_tiny_patch16_224", (32, 32), 1)
    state = {f"module.{key}": value for key, value in trunk.state_dict().items()}
    extras = ("head.weight", "norm.bias", "blocks.1.norm1.weight", "blocks.11.ls.gamma")
    load_vit_state(trunk, state | {key: torch.zeros(3) for key in extras}, "good")
    del state["module.cls_token"]
    state["blocks.0.extra"] = torch.zeros(1)
    state["module.blocks.0.norm1.bias"] = torch.zeros(7)
    with pytest.raises(ModelError) as error:
        load_vit_state(trunk, state, "bad.pth")
    for part in (
        "weights bad.pth do not fit the ViT",
        "missing cls_token",
        "unknown blocks.0.extra",
        "blocks.0.norm1.bias is [7], expected [192]",
    ):
        assert part in str(error.value)


def test_positions_are_resampled_to_the_grid(tmp_path):
    timm = import_timm()
    small = create_vit("vit_tiny_patch16_224", (64, 64), 1)
    path = tmp_path / "vit.safetensors"
    save_file({key: value.contiguous() for key, value in small.state_dict().items()}, path)
    trunk, info = load_vit("vit_tiny_patch16_224", str(path), (48, 80), 1)
    expected = timm.layers.resample_abs_pos_embed(small.pos_embed, [3, 5], num_prefix_tokens=1)
    assert torch.equal(trunk.pos_embed, expected)
    assert info["source"] == "vit.safetensors" and len(info["sha256"]) == 64
    state = read_tensors(path) | {"pos_embed": torch.zeros(1, 9, 192)}
    with pytest.raises(ModelError, match=r"pos_embed is \[1, 9, 192\], expected \[1, 16, 192\]"):
        load_vit_state(trunk, state, "no square")


def test_the_real_vit_loads():
    if not REAL.is_file():
        pytest.skip(f"{REAL} is not here; set ADFAST_TEST_DATA to where it is")
    config = SAAEConfig(
        backbone="vit_tiny_patch16_224",
        width=48,
        crop=(224, 224),
        resize=(224, 224),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        norm_eps=1e-12,
    )
    model, info = SAAE.from_weights(config, str(REAL))
    assert info["source"] == REAL.name
    assert {m.eps for m in model.vit.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-12}
    with np.load(REAL) as arrays:
        assert np.array_equal(arrays["blocks.3.mlp.fc2.weight"], model.vit.blocks[3].mlp.fc2.weight)
        state = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    whole = import_timm().create_model("vit_tiny_patch16_224", num_classes=200).eval()
    whole.load_state_dict(state)
    image = rand(1, 3, 224, 224)
    with torch.no_grad():
        (f,) = model.frozen_features(image)
        (z4,) = whole.forward_intermediates(2 * image - 1, indices=[3], intermediates_only=True)
    assert f.shape == (1, 960, 14, 14)
    equal(f[:, 768:], z4, 1e-4)


def linear(x, module):
    return x @ module.weight.detach().double().numpy().T + module.bias.detach().double().numpy()


def norm(x, module):
    centred = x - x.mean(axis=-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + module.eps)
    return y * module.weight.detach().double().numpy() + module.bias.detach().double().numpy()


def attend(x, memory, module):
    """Head by head, token by token."""
    q, k, v = linear(x, module.query), linear(memory, module.key), linear(memory, module.value)
    width = q.shape[1] // module.heads
    result = np.zeros_like(q)
    for head in range(module.heads):
        part = slice(head * width, (head + 1) * width)
        for t in range(len(q)):
            weights = np.exp(k[:, part] @ q[t, part] / math.sqrt(width))
            result[t, part] = weights / weights.sum() @ v[:, part]
    return linear(result, module.output)


def transform(x, layer, memory=None):
    x = norm(x + attend(x, x, layer.attention), layer.attention_norm)
    if memory is not None:
        x = norm(x + attend(x, memory, layer.cross), layer.cross_norm)
    return norm(x + linear(np.maximum(linear(x, layer.hidden), 0), layer.output), layer.output_norm)


def convolve(x, part):
    """Table 1 at one position: x [C]."""
    for module in part:
        if isinstance(module, torch.nn.Conv2d):
            x = module.weight.detach().double().numpy()[:, :, 0, 0] @ x
            x = x if module.bias is None else x + module.bias.detach().double().numpy()
        elif isinstance(module, torch.nn.BatchNorm2d):
            values = (module.weight, module.bias, module.running_mean, module.running_var)
            scale, shift, mean, variance = (v.detach().double().numpy() for v in values)
            x = (x - mean) / np.sqrt(variance + module.eps) * scale + shift
        else:
            x = np.maximum(x, 0)
    return x


def reconstruct(model, f):
    """Section 3.2 of one image, f [U, H0, W0]."""
    pixels = f.double().numpy().reshape(len(f), -1).T
    t = model.transformer
    position, query = (p.detach().double().numpy()[0] for p in (t.position, t.query))
    g = np.stack([convolve(pixel, model.encoder) for pixel in pixels])
    encoded = linear(g, t.input) + position
    for layer in t.encoder:
        encoded = transform(encoded, layer)
    decoded = query + position
    for layer in t.decoder:
        decoded = transform(decoded, layer, encoded)
    decoded = linear(decoded, t.output)
    rebuilt = np.stack([convolve(token, model.decoder) for token in decoded])
    return rebuilt.T.reshape(f.shape)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_autoencoder(depth):
    model = make(depth=depth)
    f = torch.randn(2, 576, 2, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        actual = model.reconstruct(f)
    for i in range(2):
        equal(actual[i], reconstruct(model, f[i]))


def bilinear(grid, height, width):
    """Upsample [h, w] with the centres of cells kept over the centres of their pixels."""
    rows, columns = grid.shape
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = int(v), int(u)
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            a, b = v - top, u - left
            result[y, x] = (1 - a) * (1 - b) * grid[top, left] + (1 - a) * b * grid[top, right]
            result[y, x] += a * (1 - b) * grid[below, left] + a * b * grid[below, right]
    return result


def test_loss_and_map(tiny):
    """Eq. 2 and 3, position by position."""
    image = rand(2, 3, 32, 48)
    with torch.no_grad():
        features = tiny.frozen_features(image)
        losses, loss = tiny.losses(image), tiny.loss(image, features)
        score, anomaly_map = tiny(image)
    assert losses.shape == (2,)
    expected = []
    for n in range(2):
        f, f_hat = features[0][n], reconstruct(tiny, features[0][n])
        difference = f.double().numpy() - f_hat
        distance = np.zeros((2, 3))
        for i in range(2):
            for j in range(3):
                distance[i, j] = math.sqrt(sum(d * d for d in difference[:, i, j]))
        expected.append(distance.sum())
        wanted = bilinear(distance, 32, 48)
        equal(anomaly_map[n, 0], wanted)
        equal(score[n], wanted.max())
    equal(losses, expected)
    equal(loss, np.mean(expected))


def test_the_decoder_asks_all_images_alike(tiny):
    """What the first self-attention of the decoder sees is no image: it has a batch of one."""
    seen = []
    attention = tiny.transformer.decoder[0].attention
    handle = attention.register_forward_hook(lambda module, inputs, output: seen.append(output))
    tiny(rand(3, 3, 32, 48))
    handle.remove()
    assert [tuple(output.shape) for output in seen] == [(1, 6, 12)]


def test_the_vit_is_frozen_and_the_rest_learns():
    model = make().train()
    assert not any(module.training for module in model.vit.modules())
    assert model.encoder[1].training and model.transformer.training
    model.loss(rand(2, 3, 32, 48)).backward()
    learning = {key for key, p in model.named_parameters() if p.grad is not None}
    assert learning == {k for k, _ in model.named_parameters() if not k.startswith("vit.")}
    silent = [k for k, p in model.named_parameters() if p.grad is not None and not p.grad.any()]
    # A bias of the keys shifts all logits of a query alike: nothing to learn. Rounding aside.
    assert not [key for key in silent if not key.endswith("key.bias")]


def test_no_gradient_where_nothing_is_wrong():
    """The distance has no derivative at 0; a perfect reconstruction must not give NaN."""
    model = make()
    f = torch.zeros(1, 576, 2, 3)
    model.decoder[6].weight.data.zero_()
    model.decoder[6].bias.data.zero_()
    loss = model.loss(None, [f])
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def width_by_svd(f, variance, heads):
    """PCA of all positions of f [B, U, H, W] by numpy's SVD."""
    rows = f.double().numpy().transpose(0, 2, 3, 1).reshape(-1, f.shape[1])
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    count = next(k for k in range(1, len(values) + 1) if values[:k].sum() >= variance * sum(values))
    return math.ceil(count / heads) * heads


@pytest.mark.parametrize("offset", [0.0, 3000.0])
@pytest.mark.parametrize("variance, heads", [(0.8, 3), (0.5, 1), (0.99, 4), (0.9, 1)])
def test_width_is_that_of_a_pca(variance, heads, offset):
    """Also far from the origin, where sums of squares alone would cancel."""
    generator = torch.Generator().manual_seed(3)
    scales = torch.linspace(3, 0.05, 40).view(1, 40, 1, 1)
    f = scales * torch.randn(7, 40, 5, 3, generator=generator) + offset
    config = SAAEConfig(pca_variance=variance, heads=heads, pca_positions=15)
    assert latent_width(f.split(3), config) == width_by_svd(f, variance, heads)


def test_width_of_a_sample_and_of_hopeless_features():
    f = torch.randn(20, 30, 8, 8, generator=torch.Generator().manual_seed(4))
    f *= torch.linspace(2, 0.1, 30).view(30, 1, 1)
    config = SAAEConfig(pca_positions=50)
    measured = latent_width(f.split(6), config)
    assert measured == latent_width(f.split(6), config)
    assert abs(measured - width_by_svd(f, 0.8, 3)) <= 3
    # With one position of each image there are 20 samples: at most 19 components.
    few = SAAEConfig(pca_positions=1, pca_variance=1.0, heads=1)
    assert latent_width(f.split(6), few) == 19
    with pytest.raises(ModelError, match="no images"):
        latent_width([], config)
    with pytest.raises(ModelError, match="do not vary"):
        latent_width([torch.ones(2, 30, 4, 4)], config)


def test_prepare_measures_the_width_once():
    torch.manual_seed(0)
    config = SAAEConfig(**TINY | {"width": None})
    model, info = SAAE.from_weights(config, "none")
    assert info == {"source": "none (random)"}
    image = rand(5, 3, 32, 48)
    with pytest.raises(ModelError, match="width is None"):
        model(image)
    features = model.frozen_features(image)
    model.prepare([[part] for part in features[0].split(2)])
    expected = width_by_svd(features[0], 0.8, 3)
    assert model.config.width == expected == model.transformer.position.shape[2]
    assert model.config.width % 3 == 0
    score, _ = model(image)
    assert score.shape == (5,)
    before = model.encoder
    model.prepare([])  # nothing is measured where the width is known
    assert model.encoder is before
    again = SAAE(SAAEConfig.from_dict(model.config.to_dict()))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(image)[1], model(image)[1])
