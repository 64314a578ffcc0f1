"""ADTR+ against equations 6 to 9, and its confetti."""

import math

import pytest

torch = pytest.importorskip("torch")

from adfast.data.confetti import confetti  # noqa: E402
from adfast.errors import ModelError  # noqa: E402
from adfast.models.adtr_plus import (  # noqa: E402
    ADTRPlus,
    ADTRPlusConfig,
    image_loss,
    pixel_loss,
    pseudo_huber,
)

SMALL = {"backbone": "resnet18", "crop": (64, 64), "resize": (64, 64), "levels": (1, 2), "dim": 16}
SMALL |= {"blocks": 1, "heads": 2, "hidden": 24}


def test_config():
    config = ADTRPlusConfig(**SMALL, labels="image")
    assert ADTRPlusConfig.from_dict(config.to_dict()) == config
    for field, value in [
        ("labels", "box"),
        ("alpha", 0),
        ("top", 0),
        ("anomalies", 1),
        ("pool", 0),
    ]:
        with pytest.raises(ModelError, match=rf"\[adtr_plus\] {field}"):
            ADTRPlusConfig(**SMALL | {field: value})


def test_equations_6_to_9():
    torch.manual_seed(0)
    d = torch.randn(3, 5, 4, 3)
    labels = (torch.rand(3, 12) < 0.3).float()
    labels[1] = 0  # a good image
    phi = torch.zeros(3, 12)
    for b in range(3):
        for u in range(12):
            mean = sum(abs(d[b, i, u // 3, u % 3].item()) for i in range(5)) / 5
            phi[b, u] = math.sqrt(mean**2 + 1) - 1  # eq. 6
    torch.testing.assert_close(pseudo_huber(d), phi)
    pixel, image = pixel_loss(phi, labels, 0.3), image_loss(phi, labels.amax(dim=1), 0.3, 4)
    for b in range(3):
        good = sum((1 - labels[b, u]) * phi[b, u] for u in range(12)) / 12
        bad = sum(labels[b, u] * phi[b, u] for u in range(12)) / 12
        expected = good if b == 1 else good - 0.3 * math.log(1 - math.exp(-bad))  # eq. 7
        assert pixel[b].item() == pytest.approx(float(expected), rel=1e-4)
        q = sum(sorted(phi[b].tolist())[-4:]) / 4  # eq. 8
        expected = q if b == 1 else -0.3 * math.log(1 - math.exp(-q))  # eq. 9
        assert image[b].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", ["pixel", "image"])
def test_good_pixels_are_pulled_and_anomalous_ones_pushed(loss):
    d = torch.full((2, 3, 2, 2), 0.5, requires_grad=True)
    labels = torch.tensor([[0.0, 0, 0, 0], [1, 1, 1, 1]])
    phi = pseudo_huber(d)
    if loss == "pixel":
        pixel_loss(phi, labels, 0.1).sum().backward()
    else:
        image_loss(phi, labels.amax(dim=1), 0.1, 20).sum().backward()
    assert (d.grad[0] > 0).all() and (d.grad[1] < 0).all()
    # No difference at all: nothing infinite.
    zero = torch.zeros(2, 3, 2, 2, requires_grad=True)
    total = pixel_loss(pseudo_huber(zero), labels, 0.1).sum()
    total.backward()
    assert total.isfinite() and zero.grad.isfinite().all()


def test_confetti_covers_what_it_says():
    images = torch.rand(6, 3, 40, 56)
    generator = torch.Generator().manual_seed(3)
    noisy, masks = confetti(images, generator)
    assert masks.shape == (6, 1, 40, 56) and masks.dtype == torch.bool
    assert masks.flatten(1).any(dim=1).all() and masks.float().mean() < 0.3
    kept = ~masks.expand_as(images)
    assert torch.equal(noisy[kept], images[kept])
    assert (noisy[~kept] != images[~kept]).float().mean() > 0.99
    assert noisy.min() >= 0 and noisy.max() <= 1
    again, _ = confetti(images, torch.Generator().manual_seed(3))
    assert torch.equal(again, noisy)
    assert confetti(images[:0])[0].shape == (0, 3, 40, 56)
    _, tiny = confetti(torch.rand(20, 3, 3, 2))
    assert tiny.flatten(1).any(dim=1).all()


def test_confetti_of_a_training_varies_and_that_of_a_validation_does_not():
    torch.manual_seed(1)
    model = ADTRPlus(ADTRPlusConfig(**SMALL, dropout=0.0))
    image = torch.rand(6, 3, 64, 64)
    with torch.no_grad():
        features = model.frozen_features(image)
        assert torch.equal(model.losses(image), model.losses(image, features))
        model.train()
        assert not torch.equal(model.losses(image), model.losses(image))
    model.loss(image).backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained and all(name.startswith("reconstruction.") for name in trained)
