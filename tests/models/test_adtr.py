"""ADTR against slow, explicit twins of the paper's equations."""

import math

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from adfast import models  # noqa: E402
from adfast.errors import ModelError  # noqa: E402
from adfast.models.adtr import (  # noqa: E402
    ADTR,
    ADTRConfig,
    DecoderLayer,
    EncoderLayer,
    MultiHeadAttention,
    Reconstruction,
)

SMALL = {"backbone": "resnet18", "crop": (64, 64), "resize": (64, 64), "dim": 32, "blocks": 2}
SMALL |= {"hidden": 48, "heads": 4}


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return ADTR(ADTRConfig(**SMALL))


def equal(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=tolerance, atol=tolerance * expected.abs().max()
    )


def test_config_round_trip_and_refusals():
    config = ADTRConfig(**SMALL, levels=[0, 1, 2])
    assert ADTRConfig.from_dict(config.to_dict()) == config
    assert ADTRConfig().grid == (16, 16) and ADTRConfig().pool == 16
    assert ADTRConfig(crop=(512, 512), resize=(512, 512)).grid == (32, 32)
    cifar = ADTRConfig(crop=(32, 32), resize=(32, 32), grid=(8, 8), upsample=False)
    assert cifar.map_size == (8, 8) and cifar.pool == 8
    for field, value in [
        ("heads", 3),
        ("levels", (2, 1)),
        ("levels", ()),
        ("crop", (16, 16)),
        ("resize", (60, 60)),
        ("blocks", 0),
        ("grid", (0, 4)),
        ("pool", 65),
        ("dropout", 1.0),
        ("std", (1, 0, 1)),
    ]:
        with pytest.raises(ModelError, match=rf"\[adtr\] {field}"):
            ADTRConfig(**{**SMALL, field: value})
    with pytest.raises(ModelError, match="expected the name of a model of timm"):
        ADTR(ADTRConfig(**{**SMALL, "backbone": "efficientnet"}))


def test_shapes_of_the_paper():
    """Appendix A: 24 + 32 + 56 + 160 + 448 = 720 channels on 16x16; 256 tokens of width 256."""
    model = models.create("adtr")
    assert model.backbone.feature_info.channels() == [24, 32, 56, 160, 448]
    assert model.backbone.feature_info.reduction() == [2, 4, 8, 16, 32]
    with torch.no_grad():
        (features,) = model.frozen_features(torch.rand(1, 3, 256, 256))
        rebuilt = model.reconstruction(features)
    assert features.shape == rebuilt.shape == (1, 720, 16, 16)
    part = model.reconstruction
    assert part.position.shape == part.query.shape == (1, 256, 256)
    assert (len(part.encoder), len(part.decoder)) == (4, 4)
    assert part.encoder[0].attention.heads == 8
    assert part.decoder[3].feed_forward[0].weight.shape == (1024, 256)
    assert not any(key.startswith("backbone.conv_head") for key in model.state_dict())


def test_cifar_sized():
    """Appendix A: images of 32, features on 8x8; the map is not upsampled."""
    config = ADTRConfig(**SMALL | {"crop": (32, 32), "resize": (32, 32)}, grid=(8, 8), pool=3)
    model = ADTR(config)
    assert model.reconstruction.query.shape == (1, 64, 32)
    assert model(torch.rand(2, 3, 32, 32))[1].shape == (2, 1, 32, 32)
    on_grid = ADTR(ADTRConfig.from_dict({**config.to_dict(), "upsample": False}))
    score, anomaly_map = on_grid(torch.rand(2, 3, 32, 32))
    assert anomaly_map.shape == (2, 1, 8, 8) and score.shape == (2,)


def test_odd_sizes_and_chosen_levels():
    config = ADTRConfig(**SMALL | {"crop": (50, 71), "resize": (60, 80)}, levels=(1, 3))
    model = ADTR(config)
    image = torch.rand(2, 3, 50, 71)
    (features,) = model.frozen_features(image)
    assert features.shape == (2, 64 + 256, 3, 4)
    assert model(image)[1].shape == (2, 1, 50, 71)
    assert not any("layer4" in key for key in model.state_dict())


def test_the_backbone_is_frozen(small):
    small.train()
    assert not any(module.training for module in small.backbone.modules())
    small.loss(torch.rand(2, 3, 64, 64)).backward()
    trained = {name for name, p in small.named_parameters() if p.grad is not None}
    assert trained == {n for n, p in small.named_parameters() if n.startswith("reconstruction.")}
    small.zero_grad()
    small.eval()


def slow_resize(x, height, width):
    """Bilinear with the corners on the corners, one pixel after the other."""
    out = torch.zeros(x.shape[0], height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            y = i * (x.shape[1] - 1) / max(height - 1, 1)
            z = j * (x.shape[2] - 1) / max(width - 1, 1)
            y0, z0 = int(y), int(z)
            y1, z1 = min(y0 + 1, x.shape[1] - 1), min(z0 + 1, x.shape[2] - 1)
            top = x[:, y0, z0] * (1 - (z - z0)) + x[:, y0, z1] * (z - z0)
            bottom = x[:, y1, z0] * (1 - (z - z0)) + x[:, y1, z1] * (z - z0)
            out[:, i, j] = top * (1 - (y - y0)) + bottom * (y - y0)
    return out


def test_features_are_resized_and_joined(small):
    torch.manual_seed(1)
    image = torch.rand(1, 3, 64, 64)
    (actual,) = small.frozen_features(image)
    mean, std = torch.tensor(small.config.mean), torch.tensor(small.config.std)
    levels = small.backbone((image - mean[:, None, None]) / std[:, None, None])
    assert [f.shape[2] for f in levels] == [32, 16, 8, 4, 2]
    equal(actual[0], torch.cat([slow_resize(f[0], 4, 4) for f in levels]))


def slow_attention(part, x, memory, position):
    """Positions join queries and keys; one head and one token after the other."""
    q = (x + position) @ part.query.weight.T + part.query.bias
    k = (memory + position) @ part.key.weight.T + part.key.bias
    v = memory @ part.value.weight.T + part.value.bias
    width = q.shape[1] // part.heads
    out = torch.zeros_like(q)
    for h in range(part.heads):
        head = slice(h * width, (h + 1) * width)
        for i in range(len(q)):
            weights = torch.exp(k[:, head] @ q[i, head] / math.sqrt(width))
            out[i, head] = (weights / weights.sum()) @ v[:, head]
    return out @ part.output.weight.T + part.output.bias


def slow_norm(part, x):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + part.norm.eps).sqrt() * part.norm.weight + part.norm.bias


def slow_feed_forward(part, x):
    hidden = torch.clamp(x @ part[0].weight.T + part[0].bias, min=0)
    return hidden @ part[2].weight.T + part[2].bias


def slow_encoder(layer, x, p):
    x = slow_norm(layer.attention_norm, x + slow_attention(layer.attention, x, x, p))
    return slow_norm(layer.output_norm, x + slow_feed_forward(layer.feed_forward, x))


def slow_decoder(layer, x, m, p):
    x = slow_norm(layer.self_attention_norm, x + slow_attention(layer.self_attention, x, x, p))
    read = slow_attention(layer.cross_attention, x, m, p)
    x = slow_norm(layer.cross_attention_norm, x + read)
    return slow_norm(layer.output_norm, x + slow_feed_forward(layer.feed_forward, x))


def shaken(module):
    """Parameters as a training leaves them: norms that scale and shift, biases that are not 0."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.eval()


@torch.no_grad()
def test_attention_and_layers():
    torch.manual_seed(2)
    x, m, p = torch.randn(6, 16), torch.randn(6, 16), torch.randn(6, 16)
    attention = shaken(MultiHeadAttention(16, 4))
    equal(attention(x[None], m[None], p[None])[0], slow_attention(attention, x, m, p))
    encoder = shaken(EncoderLayer(16, 4, 24, 0.1))
    equal(encoder(x[None], p[None])[0], slow_encoder(encoder, x, p))
    decoder = shaken(DecoderLayer(16, 4, 24, 0.1))
    equal(decoder(x[None], m[None], p[None])[0], slow_decoder(decoder, x, m, p))


@torch.no_grad()
def test_reconstruction_of_every_image_of_a_batch():
    torch.manual_seed(3)
    config = ADTRConfig(**SMALL | {"crop": (64, 96), "resize": (64, 96)}, grid=(2, 3))
    part = shaken(Reconstruction(10, config))
    features = torch.randn(3, 10, 2, 3)
    actual = part(features)
    for b in range(3):
        tokens = torch.stack([features[b, :, i, j] for i in range(2) for j in range(3)])
        memory = tokens @ part.reduce.weight[:, :, 0, 0].T + part.reduce.bias
        for layer in part.encoder:
            memory = slow_encoder(layer, memory, part.position[0])
        x = part.query[0]
        for layer in part.decoder:
            x = slow_decoder(layer, x, memory, part.position[0])
        rebuilt = x @ part.recover.weight[:, :, 0, 0].T + part.recover.bias
        for token, (i, j) in enumerate((i, j) for i in range(2) for j in range(3)):
            equal(actual[b, :, i, j], rebuilt[token])


@torch.no_grad()
def test_the_first_self_attention_sees_no_image(small):
    seen = []
    layer = small.reconstruction.decoder[0].self_attention
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    small(torch.rand(1, 3, 64, 64))
    small(torch.rand(3, 3, 64, 64))
    handle.remove()
    assert seen[0].shape[0] == 1 and torch.equal(*seen)


@torch.no_grad()
def test_loss_against_equation_1(small):
    torch.manual_seed(4)
    image = torch.rand(2, 3, 64, 64)
    (f,) = small.frozen_features(image)
    rebuilt = small.reconstruction(f)
    expected = [((f[b] - rebuilt[b]).double() ** 2).sum() / (4 * 4) for b in range(2)]
    equal(small.losses(image), torch.stack(expected))
    equal(small.loss(image), torch.stack(expected).mean())
    equal(small.loss(image, [f]), small.loss(image))
    equal(small.measure(image)["loss"], torch.stack(expected))


@torch.no_grad()
def test_map_and_score_against_equations_2_and_3(small):
    torch.manual_seed(5)
    image = torch.rand(1, 3, 64, 64)
    (f,) = small.frozen_features(image)
    rebuilt = small.reconstruction(f)
    s = torch.zeros(1, 4, 4, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            d = (f[0, :, i, j] - rebuilt[0, :, i, j]).double()  # eq. 2
            s[0, i, j] = math.sqrt((d * d).sum())  # eq. 3
    expected = slow_resize(s, 64, 64)
    score, anomaly_map = small(image)
    equal(anomaly_map[0], expected)
    means = [
        expected[0, i : i + 16, j : j + 16].mean() for i in range(64 - 15) for j in range(64 - 15)
    ]
    equal(score[0], torch.stack(means).max())


def test_bf16_autocast_stays_close_and_losses_are_float32(small):
    torch.manual_seed(6)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        exact = small.loss(image)
        with torch.autocast("cpu", torch.bfloat16):
            rough = small.loss(image)
    assert rough.dtype == torch.float32 and abs(rough - exact) < 0.02 * exact


def test_dropout_is_for_training_only(small):
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(small(image)[1], small(image)[1])
        small.train()
        assert not torch.equal(small.losses(image), small.losses(image))
        small.eval()


def test_the_fast_attention_is_that_of_pytorch():
    torch.manual_seed(7)
    ours = MultiHeadAttention(16, 4).eval()
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True).eval()
    parts = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
        x, m, p = torch.randn(2, 5, 16), torch.randn(2, 5, 16), torch.randn(1, 5, 16)
        equal(ours(x, m, p), theirs(x + p, m + p, m, need_weights=False)[0])
        # One query for all images equals that query for each of them.
        equal(ours(x[:1], m, p), ours(x[:1].expand(2, -1, -1), m, p))
        pooled = F.avg_pool2d(torch.rand(1, 1, 8, 8), 8, stride=1)
        assert pooled.shape == (1, 1, 1, 1)
