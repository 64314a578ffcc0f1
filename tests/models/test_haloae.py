"""HaloAE against slow, explicit twins of the paper's equations and of models it builds on."""

import math

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from adfast.data.cutpaste import RECTANGLE, SCAR, Piece, color_jitter, cutpaste  # noqa: E402
from adfast.errors import ModelError  # noqa: E402
from adfast.models import layers  # noqa: E402
from adfast.models.backbones import import_timm  # noqa: E402
from adfast.models.haloae import (  # noqa: E402
    HaloAE,
    HaloAEConfig,
    classification_losses,
    loss_weights,
    quarter,
    reconstruction_losses,
)
from adfast.models.vgg import VGG, load_vgg  # noqa: E402

# Grid 10x13, 6x9 after the head: 2x3 blocks.
TINY = {"backbone": "vgg11", "layers": (1, 2), "crop": (40, 52), "resize": (44, 52), "block": 3}
TINY |= {"halo": 1, "head_width": 6, "widths": (6, 4), "filters": (3, 5), "heads": (1, 2)}
TINY |= {"decoder_widths": (4,), "decoder_filters": (3, 1), "decoder_heads": (2, 1), "head_dim": 4}
TINY |= {"image_widths": (8, 8, 4, 4)}


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def make(**changes):
    """A model whose norms and mean map are not those of an untrained one."""
    torch.manual_seed(0)
    model = HaloAE(HaloAEConfig(**TINY | changes))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            torch.nn.init.normal_(module.running_mean, 0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    model.mean_map.uniform_(0, 40)
    return model


@pytest.fixture(scope="module")
def tiny():
    return make()


def slow_halo_attention(q, k, v, rows, columns, block, halo, heads, scale, legacy_mask):
    """Pixel by pixel, key by key."""
    batch, _, height, width = q.shape
    out = torch.zeros_like(v)
    d, dv = q.shape[1] // heads, v.shape[1] // heads
    for b in range(batch):
        for head in range(heads):
            ours, values = slice(head * d, (head + 1) * d), slice(head * dv, (head + 1) * dv)
            for y in range(height):
                for x in range(width):
                    logits, read = [], []
                    top, left = y // block * block - halo, x // block * block - halo
                    for ky in range(top, top + block + 2 * halo):
                        for kx in range(left, left + block + 2 * halo):
                            inside = 0 <= ky < height and 0 <= kx < width
                            key = k[b, ours, ky, kx] if inside else torch.zeros(d)
                            value = v[b, values, ky, kx] if inside else torch.zeros(dv)
                            row = (ky - top) - y % block + block + 2 * halo - 1
                            column = (kx - left) - x % block + block + 2 * halo - 1
                            key = key + rows[row] + columns[column]
                            logit = scale * float(q[b, ours, y, x] @ key)
                            if inside == legacy_mask:
                                logit = -3.4028234663852886e38
                            logits.append(logit)
                            read.append(value)
                    largest = max(logits)
                    weights = [math.exp(logit - largest) for logit in logits]
                    weighted = [w * r for w, r in zip(weights, read, strict=True)]
                    out[b, values, y, x] = sum(weighted) / sum(weights)
    return out


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "batch, heads, d, dv, size, block, halo",
    [
        (2, 2, 3, 2, (6, 9), 3, 1),
        (1, 1, 4, 4, (9, 9), 3, 1),  # the block in the middle sees no border
        (1, 3, 2, 1, (4, 2), 2, 3),  # a halo wider than the map
        (1, 2, 1, 3, (5, 5), 5, 0),
    ],
)
def test_halo_attention(batch, heads, d, dv, size, block, halo, legacy):
    generator = torch.Generator().manual_seed(block)
    q, k, v = (torch.randn(batch, heads * c, *size, generator=generator) for c in (d, d, dv))
    count = 2 * (block + 2 * halo) - 1
    rows, columns = torch.randn(2, count, d, generator=generator)
    options = (block, halo, heads, 0.6, legacy)
    actual = layers.halo_attention(q, k, v, rows, columns, *options)
    expected = slow_halo_attention(q, k, v, rows, columns, *options)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_legacy_mask_averages_inside_and_sees_nothing_at_the_border():
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 4, 9, 9, generator=generator)
    rows, columns = torch.randn(2, 9, 2, generator=generator)
    out = layers.halo_attention(q, k, v, rows, columns, 3, 1, 2, 0.5, True)
    middle = v[:, :, 2:7, 2:7].mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(out[:, :, 3:6, 3:6], middle.expand(1, 4, 3, 3))
    out[:, :, 3:6, 3:6] = 0
    assert not out.any()


def test_halo_attention_refuses_blocks_that_do_not_tile():
    x = torch.zeros(1, 2, 8, 9)
    with pytest.raises(ValueError, match="8x9, expected sides divisible by the block of 3"):
        layers.halo_attention(x, x, x, x[0, 0, :, :2], x[0, 0, :, :2], 3, 1, 1, 1.0)


def test_config_round_trip_and_refusals():
    config = HaloAEConfig(**TINY)
    assert HaloAEConfig.from_dict(config.to_dict()) == config
    for field, value in [
        ("layers", ()),
        ("layers", (3, 1)),
        ("layers", (0, 1)),
        ("head_width", 0),
        ("head_filter", 4),
        ("widths", ()),
        ("filters", (3, 3, 5)),
        ("filters", (3, 3, 5, 4)),
        ("heads", (4, 8, 8)),
        ("decoder_widths", (0,)),
        ("decoder_filters", (3, 3, 3, 5)),
        ("decoder_heads", (4, 8, 8, 8)),
        ("block", 0),
        ("halo", -1),
        ("head_dim", 0),
        ("image_widths", (8, 8, 8)),
        ("map_source", "pixels"),
        ("smoothing_size", 2),
        ("smoothing_sigma", 0),
        ("ssim_size", 10),
        ("ssim_sigma", 0),
        ("weight_start", (1, 1)),
        ("weight_end", (0, 1, 1)),
        ("weight_middle", (1,)),
        ("weight_slope", 0),
        ("weight_epochs", 0),
        ("color_jitter", 1),
        ("resize", (100, 300)),
        ("std", (1, 1, 0)),
    ]:
        with pytest.raises(ModelError, match=field):
            HaloAEConfig(**{field: value})


@pytest.mark.parametrize("side, grid", [(112, 24), (160, 36), (256, 60), (304, 72)])
def test_sizes_that_blocks_tile(side, grid):
    assert (HaloAEConfig(crop=(side, side), resize=(side, side)).grid[0] - 4) == grid


def test_sizes_that_blocks_do_not_tile_are_refused():
    for side, near in ((224, "208, 256"), (258, "256, 304"), (100, "64, 112"), (16, "at least 20")):
        with pytest.raises(ModelError, match=f"crop is .*{near}"):
            HaloAEConfig(crop=(256, side), resize=(256, 258))


def convolution(before, after, side):
    return before * after * side * side


def stage_size(before, width, side, heads):
    """Weights of a stage as the paper's table and the design page have it."""
    inner = 16 * heads
    count = convolution(before, width, 1) + convolution(width, width, side) + 2 * 2 * width
    count += 3 * width * inner + (inner * width + width) + 2 * 31 * 16
    if before != width:
        count += convolution(before, width, 1) + 2 * width
    return count


def test_shapes_and_counts_of_the_paper():
    """Sections 3.1 and 4.1, table 1: fm of 64x64x704, 60x60 inside, 29 channels at the waist."""
    with torch.device("meta"):
        model = HaloAE(HaloAEConfig())
        image = torch.rand(1, 3, 256, 256)
        (f,) = model.frozen_features(image)
        inside = []
        for stage in (*model.autoencoder.encoder, *model.autoencoder.decoder):
            stage.register_forward_hook(lambda *args: inside.append(tuple(args[2].shape)))
        f_hat = model.autoencoder(f)
        score, anomaly_map = model(image)
    assert model.vgg.channels == [64, 128, 256, 256] and model.vgg.strides == [1, 2, 4, 4]
    assert tuple(f.shape) == tuple(f_hat.shape) == (1, 704, 64, 64)
    widths = [234, 117, 58, 29, 29, 58, 118, 236, 704]
    assert inside[:9] == [(1, width, 60, 60) for width in widths]
    assert tuple(model.uncalibrated_map(image).shape) == tuple(model.mean_map.shape)
    assert tuple(model.mean_map.shape) == (1, 1, 64, 64)
    assert tuple(score.shape) == (1,) and tuple(anomaly_map.shape) == (1, 1, 256, 256)
    sides, heads = [3, 3, 5, 5, 3, 3, 3, 5, 1], [4, 8, 8, 8, 4, 8, 8, 8, 8]
    expected = convolution(704, 234, 5) + 2 * 234
    for before, *rest in zip([234, *widths[:-1]], widths, sides, heads, strict=True):
        expected += stage_size(before, *rest)
    assert sum(p.numel() for p in model.autoencoder.parameters()) == expected
    kinds = [type(stage.mix).__name__ for stage in model.autoencoder.encoder]
    assert kinds == ["Conv2d"] * 4
    assert {type(stage.mix).__name__ for stage in model.autoencoder.decoder} == {"ConvTranspose2d"}
    convolutions = [m for m in model.image_decoder if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 5 and {c.kernel_size for c in convolutions} == {(3, 3)}
    assert tuple(model.image_decoder(f_hat).shape) == (1, 3, 256, 256)
    assert model.classifier.in_features == 3 * 256 * 256


@pytest.mark.parametrize("name, chosen", [("vgg11", (1, 3)), ("vgg13_bn", (2, 3))])
def test_the_trunk_is_timms_with_reflected_borders(tmp_path, name, chosen):
    torch.manual_seed(0)
    with torch.device("meta"):
        whole = import_timm().create_model(name)
    state = {}
    for key, value in whole.state_dict().items():
        if key.startswith("features.") and int(key.split(".")[1]) < 12:
            positive = key.endswith("running_var")
            state[key] = (
                torch.rand(value.shape) + 0.5 if positive else 0.1 * torch.randn(value.shape)
            )
    # torchvision's names of the classifier; convolutions past the last one used.
    more = {"classifier.0.weight": torch.zeros(2, 2), "features.18.weight": torch.zeros(1)}
    if name == "vgg11":
        more["features.8.bias"] = torch.zeros(3)
    torch.save({**state, **more}, tmp_path / "vgg.pth")
    trunk, info = load_vgg(name, str(tmp_path / "vgg.pth"), chosen)
    assert info["source"] == "vgg.pth" and len(info["sha256"]) == 64
    image = torch.randn(2, 3, 20, 24)
    x, count, expected = image, 0, []
    for i, part in enumerate(whole.features):
        if isinstance(part, torch.nn.Conv2d):
            count += 1
            if count > max(chosen):
                break
            padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
            x = F.conv2d(padded, state[f"features.{i}.weight"], state[f"features.{i}.bias"])
        elif isinstance(part, torch.nn.BatchNorm2d):
            names = ("running_mean", "running_var", "weight", "bias")
            x = F.batch_norm(x, *(state[f"features.{i}.{n}"] for n in names))
        elif isinstance(part, torch.nn.ReLU):
            x = x.relu()
            if count in chosen:
                expected.append(x)
        else:
            x = F.max_pool2d(x, 2)
    actual = trunk(image)
    assert len(actual) == len(expected) == 2 and not any(
        p.requires_grad for p in trunk.parameters()
    )
    for found, wanted, channels in zip(actual, expected, trunk.channels, strict=True):
        assert found.shape[1] == channels
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_weights_that_do_not_fit_are_listed(tmp_path):
    state = {k: v.clone() for k, v in VGG("vgg11", (1, 3)).state_dict().items()}
    del state["features.3.bias"]
    state["features.0.weight"] = torch.zeros(64, 3, 5, 5)
    state["extra.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "vgg.safetensors")
    with pytest.raises(ModelError) as raised:
        load_vgg("vgg11", str(tmp_path / "vgg.safetensors"), (1, 3))
    for part in (
        "missing features.3.bias",
        "unknown extra.weight",
        "features.0.weight is [64, 3, 5, 5], expected [64, 3, 3, 3]",
    ):
        assert part in str(raised.value)
    with pytest.raises(ModelError, match="'vgg12', expected a VGG of timm: vgg11, .* did you mean"):
        VGG("vgg12", (1,))
    with pytest.raises(ModelError, match="vgg11 has 8 convolutions, layer 9 is none"):
        VGG("vgg11", (1, 9))
    with pytest.raises(ModelError, match="does not exist"):
        load_vgg("vgg11", str(tmp_path / "none.npz"), (1,))


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_quarter_is_nearest_upsampling_and_the_mean_of_4x4(stride):
    x = rand(2, 3, 32 // stride, 48 // stride)
    literal = F.avg_pool2d(F.interpolate(x, size=(32, 48), mode="nearest"), 4)
    torch.testing.assert_close(quarter(x, stride), literal)


def norm(x, module):
    shape = (1, -1, 1, 1)
    scale = module.weight / (module.running_var + module.eps).sqrt()
    return (x - module.running_mean.view(shape)) * scale.view(shape) + module.bias.view(shape)


def as_convolution(x, module):
    """A transposed convolution of stride 1: the filter turned round, inputs and outputs swapped."""
    weight = module.weight
    if isinstance(module, torch.nn.ConvTranspose2d):
        weight = weight.flip(2, 3).transpose(0, 1)
    return F.conv2d(x, weight, padding=weight.shape[2] // 2)


@torch.no_grad()
def test_the_autoencoder_step_by_step(tiny):
    """Table 1, every layer by hand."""
    f = rand(2, 192, 10, 13)
    autoencoder = tiny.autoencoder
    x = norm(F.conv2d(f, autoencoder.head.weight), autoencoder.head_norm).relu()
    assert tuple(x.shape) == (2, 6, 6, 9)
    heads = [1, 2, 2, 1]
    stages = [*autoencoder.encoder, *autoencoder.decoder]
    for stage, count in zip(stages, heads, strict=True):
        a = stage.attention
        y = norm(as_convolution(x, stage.reduce), stage.reduce_norm).relu()
        q, k, v = (F.conv2d(y, part.weight) for part in (a.query, a.key, a.value))
        read = slow_halo_attention(q, k, v, a.rows, a.columns, 3, 1, count, 0.5, False)
        y = F.conv2d(read, a.output.weight, a.output.bias).relu()
        y = norm(as_convolution(y, stage.mix), stage.mix_norm)
        changes = stage.reduce.weight.shape[0] != stage.reduce.weight.shape[1]
        assert len(stage.shortcut) == (2 if changes else 0)
        if changes:
            x = norm(as_convolution(x, stage.shortcut[0]), stage.shortcut[1])
        x = (x + y).relu()
    rows, columns = [i * 6 // 10 for i in range(10)], [i * 9 // 13 for i in range(13)]
    expected = x[:, :, rows][..., columns]
    torch.testing.assert_close(autoencoder(f), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_map_and_score(tiny):
    image = rand(2, 3, 40, 52)
    first, second = tiny.vgg(tiny.normalize(image))
    f = torch.cat([F.avg_pool2d(first, 4), F.avg_pool2d(second, 2)], dim=1)
    torch.testing.assert_close(tiny.frozen_features(image)[0], f)
    a = (f - tiny.autoencoder(f)).square().sum(dim=1, keepdim=True)  # eq. 6
    torch.testing.assert_close(tiny.uncalibrated_map(image), a)
    distance = F.pad((a - tiny.mean_map).abs(), (1, 1, 1, 1), mode="reflect")
    weights = torch.tensor([math.exp(-0.5 * (i / 0.8) ** 2) for i in (-1, 0, 1)])
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    smooth = F.conv2d(distance, kernel[None, None])
    expected = F.interpolate(smooth, size=(40, 52), mode="bilinear", align_corners=False)
    score, anomaly_map = tiny(image)
    torch.testing.assert_close(anomaly_map, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(score, anomaly_map.mean(dim=(1, 2, 3)))
    assert tiny.score_fields() == {"reduction": "mean"}
    assert tiny.map_fields()["smoothing"]["size"] == 3


@torch.no_grad()
def test_map_of_the_image(tiny):
    model = make(map_source="image")
    model.load_state_dict(tiny.state_dict())
    model.mean_map.fill_(0.1)
    image = rand(1, 3, 40, 52)
    image_hat = model.image_decoder(model.autoencoder(*model.frozen_features(image)))
    a = (image - image_hat).square().sum(dim=1, keepdim=True)
    expected = layers.gaussian_blur((a - 0.1).abs(), model.gaussian)
    torch.testing.assert_close(model(image)[1], expected)
    assert model.map_fields()["upsample"] == "none"
    torch.testing.assert_close(model.measure(image)["loss"], model.image_losses(image, image_hat))


def test_the_image_decoder_enlarges_by_repeating(tiny):
    """Block D: five convolutions on the features' grid, then every pixel four times each way."""
    with torch.no_grad():
        image = tiny.image_decoder(rand(1, 192, 10, 13))
    small = image[:, :, ::4, ::4]
    expected = small.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert torch.equal(image, expected) and small.unique().numel() > 100


def test_legacy_mask_reaches_every_attention(tiny):
    legacy = make(legacy_mask=True)
    legacy.load_state_dict(tiny.state_dict())
    with torch.no_grad():
        # Of 2x3 blocks all lie at the border: nothing is read, only the output's bias is left.
        y = rand(1, 6, 6, 9)
        attention = legacy.autoencoder.encoder[0].attention
        expected = attention.output.bias.view(1, -1, 1, 1).expand(1, 6, 6, 9)
        torch.testing.assert_close(attention(y), expected)
    modules = [m for m in legacy.modules() if type(m).__name__ == "HaloAttention"]
    assert len(modules) == 4 and all(m.options[-1] is True for m in modules)


def test_loss_weights_follow_figure_3():
    config = HaloAEConfig()
    all_weights = [loss_weights(config, epoch, 250) for epoch in range(250)]
    for weights in all_weights:
        assert sum(weights) == pytest.approx(1) and min(weights) > 0
    first, second, third = zip(*all_weights, strict=True)
    assert list(first) == sorted(first, reverse=True) and list(third) == sorted(third)
    assert first[0] > 0.7 and first[-1] < 0.1 and second[-1] > 0.4 and third[-1] > 0.4

    def half(alpha):
        """Epoch by which an alpha has risen to 0.3."""
        return next(epoch for epoch, value in enumerate(alpha) if value > 0.3)

    assert half(second) + 30 < half(third)
    # The curves as printed, normalised.
    x, curves = 70, [(1, 0.1, 100), (0.1, 1, 100), (0.1, 1, 250)]
    curves = [(a - b) / (1 + math.exp((x - c / 2) * 0.05)) + b for a, b, c in curves]
    assert all_weights[70] == pytest.approx([c / sum(curves) for c in curves])
    assert loss_weights(config, 7, 25) == pytest.approx(all_weights[70])
    model = make()
    model.begin_epoch(7, 25)
    assert model.loss_weights == pytest.approx(all_weights[70])


def test_classification_loss_is_eq_1():
    verdicts = torch.tensor([[0.3, -2.0], [1.5, -0.7], [-0.2, 3.0]])

    def entropy(logit, label):
        p = 1 / (1 + math.exp(-logit))
        return -math.log(p if label else 1 - p)

    expected = [
        entropy(normal, 0) + (entropy(one, 1) + entropy(two, 1)) / 2
        for normal, one, two in verdicts.T.tolist()
    ]
    assert classification_losses(verdicts).tolist() == pytest.approx(expected)


def test_reconstruction_loss_is_eq_2():
    config = HaloAEConfig(ssim_size=3, ssim_sigma=0.9)
    x, x_hat, peak = 7 * rand(2, 2, 5, 4), 7 * rand(2, 2, 5, 4, seed=1), 7.0
    g = [math.exp(-0.5 * (i / 0.9) ** 2) for i in (-1, 0, 1)]
    expected = []
    for a, b in zip(x.double() / peak, x_hat.double() / peak, strict=True):
        total = (peak * (a - b)).square().sum(dim=0).sqrt().mean()
        for c in range(2):
            for i in range(5):
                for j in range(4):
                    near = [
                        (g[di + 1] * g[dj + 1], a[c, i + di, j + dj], b[c, i + di, j + dj])
                        for di in (-1, 0, 1)
                        for dj in (-1, 0, 1)
                        if 0 <= i + di < 5 and 0 <= j + dj < 4
                    ]
                    w = sum(n[0] for n in near)
                    ma, mb = (sum(n[0] * n[k] for n in near) / w for k in (1, 2))
                    va = sum(n[0] * (n[1] - ma) ** 2 for n in near) / w
                    vb = sum(n[0] * (n[2] - mb) ** 2 for n in near) / w
                    cov = sum(n[0] * (n[1] - ma) * (n[2] - mb) for n in near) / w
                    ssim = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4)
                    ssim = ssim / (ma**2 + mb**2 + 1e-4) / (va + vb + 9e-4)
                    total += (1 - ssim) / 40
        expected.append(total)
    actual = reconstruction_losses(x, x_hat, torch.tensor(peak), config)
    torch.testing.assert_close(actual, torch.stack(expected).float(), rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_weighted_sum_of_three(tiny):
    model = make()
    image = rand(2, 3, 40, 52)
    parts = []
    for i in range(3):
        model.loss_weights = tuple(float(i == j) for j in range(3))
        parts.append(model.losses(image))
    model.loss_weights = (0.2, 0.3, 0.5)
    expected = 0.2 * parts[0] + 0.3 * parts[1] + 0.5 * parts[2]
    torch.testing.assert_close(model.losses(image), expected)
    # Out of training the colours are always the same: the parts can be computed again.
    jittered = color_jitter(image, 0.1, torch.Generator().manual_seed(0))
    (f,) = model.frozen_features(jittered)
    f_hat = model.autoencoder(f)
    torch.testing.assert_close(parts[1], model.feature_losses(f, f_hat), rtol=1e-4, atol=1e-5)
    image_hat = model.image_decoder(f_hat)
    torch.testing.assert_close(parts[2], model.image_losses(jittered, image_hat))


def test_training_draws_new_damage_and_moves_all_but_the_trunk():
    model = make().train()
    image = rand(2, 3, 40, 52)
    torch.manual_seed(1)
    first = model.losses(image)
    torch.manual_seed(1)
    assert torch.equal(model.losses(image), first)
    assert not torch.equal(model.losses(image), first)
    model.loss(image).backward()
    for name, parameter in model.named_parameters():
        moved = parameter.grad is not None and parameter.grad.abs().sum() > 0
        assert moved is not name.startswith("vgg."), name
    assert not model.vgg.training and model.autoencoder.training


def test_validation_is_the_same_in_every_epoch(tiny):
    model = make()
    image = rand(2, 3, 40, 52)
    with torch.no_grad():
        first = model.measure(image)["loss"]
        model.begin_epoch(200, 250)
        assert torch.equal(model.measure(image)["loss"], first)
        (f,) = model.frozen_features(image)
        torch.testing.assert_close(first, model.feature_losses(f, model.autoencoder(f)))
    assert model.keeps_features is False and model.has_mean_map


@pytest.mark.parametrize("size", [(64, 64), (40, 90), (9, 7)])
@pytest.mark.parametrize("piece", [RECTANGLE, SCAR])
def test_cutpaste(size, piece):
    images = rand(20, 3, *size)
    before = images.clone()
    generator = torch.Generator().manual_seed(3)
    damaged, masks = cutpaste(images, piece, generator)
    assert torch.equal(images, before) and damaged.shape == images.shape
    assert masks.dtype == torch.bool and masks.shape == (20, 1, *size)
    assert masks.flatten(1).any(dim=1).all()
    assert torch.equal(damaged[~masks.expand_as(damaged)], images[~masks.expand_as(images)])
    changed = (damaged != images).any(dim=1, keepdim=True) & masks
    assert changed.sum() > 0.9 * masks.sum()
    assert damaged.min() >= 0 and damaged.max() <= 1
    again, _ = cutpaste(images, piece, torch.Generator().manual_seed(3))
    assert torch.equal(again, damaged)
    other, _ = cutpaste(images, piece, torch.Generator().manual_seed(4))
    assert not torch.equal(other, damaged)


def test_what_is_pasted_was_cut_out():
    """An upright piece, its colours as they were: a rectangle of the image somewhere else."""
    image = rand(1, 3, 30, 40)
    piece = Piece(area=(0.05, 0.1), aspect=(1.5, 2.0), jitter=0.0)
    for seed in range(5):
        damaged, masks = cutpaste(image, piece, torch.Generator().manual_seed(seed))
        rows, columns = masks[0, 0].any(dim=1).nonzero(), masks[0, 0].any(dim=0).nonzero()
        top, left = int(rows[0]), int(columns[0])
        h, w = len(rows), len(columns)
        assert masks.sum() == h * w and 0.03 < h * w / 1200 < 0.13
        found = damaged[0, :, top : top + h, left : left + w]
        windows = image[0].unfold(1, h, 1).unfold(2, w, 1)  # [3, y, x, h, w]
        same = (windows - found[:, None, None]).abs().amax(dim=(0, 3, 4)) < 1e-6
        assert same.any()


def test_scars_are_thin_and_turned():
    _, masks = cutpaste(torch.zeros(60, 3, 256, 256), SCAR, torch.Generator().manual_seed(0))
    areas = masks.flatten(1).sum(dim=1)
    assert areas.min() >= 10 and areas.max() <= 25 * 16 + 60
    boxes = masks[:, 0].any(dim=2).sum(dim=1) * masks[:, 0].any(dim=1).sum(dim=1)
    assert (areas < 0.8 * boxes).float().mean() > 0.5  # most do not fill their bounding boxes


def test_color_jitter():
    images = rand(8, 3, 6, 5)
    same = color_jitter(images, 0.0)
    torch.testing.assert_close(same, images)
    generator = torch.Generator().manual_seed(0)
    changed = color_jitter(images, 0.1, generator)
    assert changed.min() >= 0 and changed.max() <= 1 and not torch.equal(changed, images)
    assert (changed - images).abs().max() < 0.35
    assert torch.equal(color_jitter(images, 0.1, torch.Generator().manual_seed(0)), changed)
    # Brightness, then saturation, then contrast, by hand for one image.
    b, c, s = (1 + 0.1 * (2 * torch.rand(8, 3, generator=torch.Generator().manual_seed(0)) - 1))[3]
    x = images[3] * b
    grey = x.mean(dim=0)
    x = grey + s * (x - grey)
    x = grey.mean() + c * (x - grey.mean())
    torch.testing.assert_close(changed[3], x.clamp(0, 1))


@pytest.mark.parametrize("kept", [0, 10**9])
def test_weights_that_are_not_kept_are_computed_again(kept, monkeypatch):
    """Those of large attentions; how large one is."""
    seen = []
    monkeypatch.setattr("adfast.models.haloae.KEPT_WEIGHTS", kept)
    monkeypatch.setattr(
        "adfast.models.haloae.checkpoint",
        lambda call, *inputs, use_reentrant: seen.append(call) or call(*inputs),
    )
    attention = make().autoencoder.encoder[1].attention.train()
    x = rand(2, 4, 6, 9).requires_grad_()
    # Two heads; of 54 pixels of two images each sees 5x5.
    assert attention.weights(x) == 2 * 2 * 54 * 25
    attention(x).sum().backward()
    assert x.grad.abs().sum() > 0 and len(seen) == (kept == 0)
