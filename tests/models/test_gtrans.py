"""GTrans against slow, explicit twins of the paper's equations."""

import math

import pytest

torch = pytest.importorskip("torch")

from adfast import models  # noqa: E402
from adfast.errors import ModelError  # noqa: E402
from adfast.models.gtrans import FUSIONS, TFM, GTrans, GTransConfig, Mapper, Tokenizer  # noqa: E402

SMALL = {"backbone": "resnet18", "crop": (64, 64), "resize": (73, 73)}


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return GTrans(GTransConfig(**SMALL))


def equal(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=tolerance, atol=tolerance * expected.abs().max()
    )


def test_config_round_trip_and_refusals():
    config = GTransConfig(**SMALL, alpha_scale=[1, 2, 3])
    assert GTransConfig.from_dict(config.to_dict()) == config
    assert GTransConfig().gaussian_sigma == 4.0 and GTransConfig().gaussian_radius == 16
    assert GTransConfig(crop=(112, 112)).gaussian_sigma == 2.0
    # A kernel never reaches over the map's far side, which mirroring could not fill.
    wide = GTransConfig(crop=(32, 32), gaussian_sigma=20.0)
    assert wide.gaussian_radius == 31
    with pytest.raises(ModelError, match="unknown config fields: colour"):
        GTransConfig.from_dict({"colour": 1})
    for field, value in [
        ("backbone", "vgg"),
        ("fusion", "P7"),
        ("mapper_source", "both"),
        ("crop", (16, 16)),
        ("resize", (100, 100)),
        ("blocks", 0),
        ("alpha_scale", (1, 0, 1)),
    ]:
        with pytest.raises(ModelError, match=field):
            GTransConfig(**{field: value})
    with pytest.raises(ModelError, match="choose one of gtrans"):
        models.create("other")


@pytest.mark.parametrize("name, channels", [("resnet34", 64), ("wide_resnet50_2", 256)])
def test_shapes_of_the_paper(name, channels):
    """Section 4.3: maps of 56, 28 and 14; g = 8; d = 256; two encoders and two decoders."""
    config = GTransConfig(backbone=name)
    model = GTrans(config)
    with torch.no_grad():
        features = model.frozen_features(torch.rand(1, 3, 224, 224))
        tokens = [t(f) for t, f in zip(model.agn_tokenizer, features, strict=True)]
    sizes = [(channels * 2**i, 56 >> i, 56 >> i) for i in range(3)]
    assert [tuple(f.shape[1:]) for f in features] == sizes
    assert [tuple(size) for size in config.map_sizes] == [size[1:] for size in sizes]
    assert [tuple(t.shape) for t in tokens] == [(1, 8, 256)] * 3
    assert (len(model.tfm.encoder), len(model.tfm.decoder)) == (2, 2)
    assert not any("layer4" in key or key.startswith("agn.fc") for key in model.state_dict())


def test_odd_sizes_give_the_announced_maps():
    config = GTransConfig(backbone="resnet18", crop=(50, 71), resize=(60, 80))
    model = GTrans(config)
    with torch.no_grad():
        features = model.frozen_features(torch.rand(1, 3, 50, 71))
        score, anomaly_map = model(torch.rand(2, 3, 50, 71))
    assert [tuple(f.shape[2:]) for f in features] == config.map_sizes
    assert anomaly_map.shape == (2, 1, 50, 71) and score.shape == (2,)


def test_agn_is_frozen_and_trans_is_not(small):
    small.train()
    assert not any(module.training for module in small.agn.modules())
    assert small.trans.training
    small.loss(torch.rand(2, 3, 64, 64)).backward()
    trained = {name for name, p in small.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in small.named_parameters() if not name.startswith("agn.")}
    small.zero_grad()
    small.eval()


def test_tokenizer_pools_first_and_equals_the_paper():
    """Eq. 1-3 in the paper's order: project every pixel, then pool."""
    torch.manual_seed(1)
    tokenizer = Tokenizer(12, 8, 20)
    features = torch.randn(2, 12, 5, 7) * 3
    with torch.no_grad():
        actual = tokenizer(features)
        for b in range(2):
            pixels = features[b].reshape(12, 35).T.double()
            groups = pixels @ tokenizer.group.weight.T.double() / math.sqrt(12)  # eq. 1
            values = pixels @ tokenizer.project.weight.T.double() + tokenizer.project.bias  # eq. 2
            for t in range(8):  # eq. 3
                weights = torch.exp(groups[:, t]) / torch.exp(groups[:, t]).sum()
                equal(actual[b, t], sum(weights[i] * values[i] for i in range(35)))


def slow_norm(x, norm):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def slow_block(block, x, memory):
    """Eq. 4-7 or 8-11 with one loop per token; columns of the paper are rows here."""
    d = x.shape[-1]
    q, k, v = (x @ block.query.weight.T, memory @ block.key.weight.T, memory @ block.value.weight.T)
    attended = torch.zeros_like(q)
    for i in range(q.shape[0]):
        weights = torch.exp(k @ q[i] / math.sqrt(d))
        attended[i] = (weights / weights.sum()) @ v
    a = x + slow_norm(attended, block.attention_norm)
    hidden = torch.clamp(a @ block.hidden.weight.T + block.hidden.bias, min=0)
    return slow_norm(a + hidden @ block.output.weight.T + block.output.bias, block.output_norm)


def test_tfm_against_equations_4_to_11():
    torch.manual_seed(2)
    tfm = TFM(16, 2)
    for parameter in tfm.parameters():  # norms that scale and shift
        torch.nn.init.normal_(parameter, std=0.5)
    trans, agn = torch.randn(24, 16), torch.randn(24, 16)
    with torch.no_grad():
        encoded, decoded = tfm(trans[None], agn[None])
        slow_encoded, slow_decoded = trans, agn
        for block in tfm.encoder:
            slow_encoded = slow_block(block, slow_encoded, slow_encoded)
        for block in tfm.decoder:
            slow_decoded = slow_block(block, slow_decoded, slow_encoded)
    equal(encoded[0], slow_encoded)
    equal(decoded[0], slow_decoded)


def test_mapper_against_equation_12():
    torch.manual_seed(3)
    mapper = Mapper(12, 16)
    agn, trans, tokens = torch.randn(1, 12, 3, 5), torch.randn(1, 12, 3, 5), torch.randn(1, 8, 16)
    with torch.no_grad():
        actual = mapper(agn, trans, tokens)
        keys = tokens[0] @ mapper.key.weight.T
        values = tokens[0] @ mapper.value.weight.T + mapper.value.bias
        for i in range(3):
            for j in range(5):
                query = mapper.query.weight @ agn[0, :, i, j] + mapper.query.bias
                weights = torch.exp(keys @ query / math.sqrt(12))
                expected = trans[0, :, i, j] + (weights / weights.sum()) @ values
                equal(actual[0, :, i, j], expected)


def test_the_mapper_reads_the_tokens_its_config_names(small):
    torch.manual_seed(4)
    image = torch.rand(1, 3, 64, 64)
    encoder = GTrans(GTransConfig(**SMALL, mapper_source="encoder"))
    encoder.load_state_dict(small.state_dict())
    with torch.no_grad():
        before = encoder(image)[0].item()
        assert before != small(image)[0].item()
        for parameter in encoder.tfm.decoder.parameters():
            parameter.zero_()
        assert encoder(image)[0].item() == before  # dead code, as the config's notes say


def test_loss_against_equations_13_and_14(small):
    torch.manual_seed(5)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        agn = small.frozen_features(image)
        mapped = small.trans_features(image, agn)
        total = 0.0
        for b in range(2):
            for g, m in zip(agn, mapped, strict=True):
                _, height, width = g[b].shape
                pixels = (0.5 * (g[b] - m[b]).double() ** 2).sum(dim=0)  # eq. 13
                total += pixels.sum() / (height * width)  # eq. 14
        equal(small.loss(image), torch.as_tensor(total / 2))
        equal(small.loss(image, agn), small.loss(image))


def slow_maps(g, m, lam, size):
    """Eq. 15-18 of one image and one layer: alpha * R(P)."""
    g, m = g.double(), m.double()
    pixels = g.shape[1] * g.shape[2]
    p = torch.zeros(g.shape[1:], dtype=torch.float64)
    for c in range(g.shape[0]):
        p += 0.5 * (g[c] - m[c]) ** 2 / pixels  # eq. 15
    mse = ((g - m) ** 2).sum() / pixels  # eq. 16
    cos = 1 - (g.flatten() @ m.flatten()) / (g.norm() * m.norm())  # eq. 17
    alpha = lam * cos * mse / (mse + lam * cos)  # eq. 18
    resized = torch.zeros(size, dtype=torch.float64)
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * p.shape[0] / size[0] - 0.5, 0), p.shape[0] - 1)
            x = min(max((j + 0.5) * p.shape[1] / size[1] - 0.5, 0), p.shape[1] - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, p.shape[0] - 1), min(x0 + 1, p.shape[1] - 1)
            top = p[y0, x0] * (1 - (x - x0)) + p[y0, x1] * (x - x0)
            bottom = p[y1, x0] * (1 - (x - x0)) + p[y1, x1] * (x - x0)
            resized[i, j] = top * (1 - (y - y0)) + bottom * (y - y0)
    return alpha * resized


def slow_blur(x, sigma, radius):
    """A two-dimensional Gaussian with mirrored borders, the edge pixel not repeated."""
    taps = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
    taps = torch.tensor([t / sum(taps) for t in taps], dtype=torch.float64)

    def index(i, n):
        i = abs(i)
        return 2 * (n - 1) - i if i >= n else i

    height, width = x.shape
    rows = [[index(i + k, height) for k in range(-radius, radius + 1)] for i in range(height)]
    columns = [[index(j + k, width) for k in range(-radius, radius + 1)] for j in range(width)]
    blurred = torch.stack([(taps[:, None] * x[r]).sum(dim=0) for r in rows])
    return torch.stack([(blurred[:, c] * taps).sum(dim=1) for c in columns], dim=1)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_map_and_score_against_equations_15_to_19(small, fusion):
    torch.manual_seed(6)
    model = GTrans(GTransConfig(**SMALL, fusion=fusion, alpha_scale=(30.0, 20.0, 10.0)))
    state = small.state_dict()
    state.pop("alpha_scale")
    model.load_state_dict(state, strict=False)
    assert model.alpha_scale.tolist() == [30, 20, 10]
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        agn = model.frozen_features(image)
        mapped = model.trans_features(image, agn)
        score, actual = model(image)
    m1, m2, m3 = (
        slow_maps(g[0], m[0], lam, (64, 64))
        for g, m, lam in zip(agn, mapped, (30, 20, 10), strict=True)
    )
    combined = {
        "P1": m3,
        "P2": m1 * m3,
        "P3": m2 * m3,
        "P4": m1 + m2 + m3,
        "P5": m1 * m2 * m3,
        "P6": m1 * m3 + m2 * m3,
    }[fusion]
    expected = slow_blur(combined, model.config.gaussian_sigma, model.config.gaussian_radius)
    equal(actual[0, 0], expected)
    assert score.item() == actual.max().item()


def test_equal_features_score_zero():
    from adfast.models import layers

    a = torch.rand(1, 4, 6, 5)
    maps, mse, cos = layers.score_map(a, a)
    fused = layers.fuse_maps([maps] * 3, [mse] * 3, [cos] * 3, torch.ones(3), 6, (12, 10))
    assert maps.max() == 0 and mse == 0 and abs(cos) < 1e-6
    assert fused.abs().max() == 0
    _, _, cos = layers.score_map(a, torch.zeros_like(a))
    assert cos == 1


def test_bf16_autocast_stays_close_and_losses_are_float32(small):
    torch.manual_seed(7)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        exact = small.loss(image)
        with torch.autocast("cpu", torch.bfloat16):
            rough = small.loss(image)
            maps, mses, coses = small.compare(image)
    assert rough.dtype == torch.float32
    assert all(t.dtype == torch.float32 for t in (*maps, *mses, *coses))
    assert abs(rough - exact) < 0.02 * exact
