"""How weights reach the trunks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from adfast.errors import ModelError  # noqa: E402
from adfast.models.backbones import (  # noqa: E402
    create_backbone,
    load_backbone,
    load_state,
    read_tensors,
)
from adfast.models.gtrans import BACKBONES, LEVELS, STRIDES  # noqa: E402

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("ADFAST_TEST_DATA", ROOT.parent / "shared" / "data"))
REAL = DATA / "weights" / "resnet18_imagenet_bnfolded_conv1_to_layer3.npz"


def randomise(trunk, seed=0):
    """Give BatchNorms statistics, as a trained trunk has."""
    generator = torch.Generator().manual_seed(seed)
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.3, 0.9, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
    return trunk.eval()


def features(trunk):
    with torch.no_grad():
        return trunk.eval()(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))


def same(a, b, tolerance=0.0):
    return all((x - y).abs().max() <= tolerance * y.abs().max() for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def trunk():
    return randomise(create_backbone("resnet18", (1, 2, 3)))


@pytest.fixture(scope="module")
def full_state(trunk):
    """What a whole ResNet's file holds: also the classifier, layer4 and counters."""
    state = {key: value.clone().contiguous() for key, value in trunk.state_dict().items()}
    state |= {
        "fc.weight": torch.zeros(10, 512),
        "layer4.0.conv1.weight": torch.zeros(512, 256, 3, 3),
    }
    return state


@pytest.mark.parametrize("kind", [".safetensors", ".npz", ".pth", "nested.pth", "module.pth"])
def test_every_kind_of_file(tmp_path, trunk, full_state, kind):
    path = tmp_path / f"weights{kind}"
    if kind == ".safetensors":
        save_file(full_state, path)
    elif kind == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in full_state.items()})
    elif kind == "nested.pth":
        torch.save({"state_dict": full_state, "epoch": 3}, path)
    elif kind == "module.pth":
        torch.save({f"module.{key}": value for key, value in full_state.items()}, path)
    else:
        torch.save(full_state, path)
    loaded, info = load_backbone("resnet18", str(path), (1, 2, 3))
    assert same(features(loaded), features(trunk))
    assert info["source"] == path.name and len(info["sha256"]) == 64


def test_folded_batch_norms(trunk):
    """Convolutions with biases: the BatchNorm left over adds exactly the bias."""
    folded = {}
    state = trunk.state_dict()
    for key in [key for key in state if key.endswith("conv1.weight") or "conv2.weight" in key]:
        folded[key.removesuffix(".weight")] = key.replace("conv", "bn").removesuffix(".weight")
    for key in [key for key in state if key.endswith("downsample.0.weight")]:
        folded[key.removesuffix(".weight")] = key.replace("downsample.0.weight", "downsample.1")
    given = {}
    for conv, norm in folded.items():
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        given[f"{conv}.weight"] = state[f"{conv}.weight"] * scale[:, None, None, None]
        given[f"{conv}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    loaded = create_backbone("resnet18", (1, 2, 3))
    load_state(loaded, given, "test", "resnet18")
    assert same(features(loaded), features(trunk), 1e-5)
    norm = loaded["bn1"].eval()
    x = torch.randn(1, 64, 3, 3)
    assert torch.equal(norm(x), x + given["conv1.bias"][:, None, None])


def test_wrong_weights_are_listed(full_state):
    broken = dict(full_state)
    del broken["layer2.0.bn1.weight"]
    broken["head.bias"] = torch.zeros(3)
    broken["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    with pytest.raises(ModelError) as error:
        load_state(create_backbone("resnet18", (1, 2, 3)), broken, "FILE", "resnet18")
    for part in (
        "FILE",
        "missing layer2.0.bn1.weight",
        "unknown head.bias",
        "conv1.weight is [64, 1, 7, 7], expected [64, 3, 7, 7]",
    ):
        assert part in str(error.value)
    with pytest.raises(ModelError, match="do not fit"):
        load_state(create_backbone("resnet34", (1, 2, 3)), full_state, "FILE", "resnet34")


def test_unreadable_files(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        read_tensors(tmp_path / "none.pth")
    for name in ("a.safetensors", "a.npz", "a.pth"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(ModelError, match=name):
            read_tensors(tmp_path / name)
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"expected \.safetensors"):
        read_tensors(tmp_path / "a.bin")


def test_pickled_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/ran",))

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="evil.pth"):
        read_tensors(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_unknown_backbones_and_levels():
    with pytest.raises(ModelError, match="did you mean resnet50"):
        create_backbone("resnet_50")
    with pytest.raises(ModelError, match=r"no feature maps at levels \(9,\)"):
        create_backbone("resnet18", (9,))


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "convnext_atto", "resnet18"])
def test_whole_models_fill_trunks_of_any_family(name):
    """The weights of a whole model, also where timm renames the parts it takes out of it."""
    import timm

    torch.manual_seed(2)
    whole = randomise(timm.create_model(name))
    state = whole.state_dict()
    trunk = create_backbone(name)
    load_state(trunk, state, "FILE", name)
    assert trunk.feature_info.reduction()[-4:] == [4, 8, 16, 32]
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        coarsest = trunk.eval()(image)[-1]
        expected = whole.forward_intermediates(image, intermediates_only=True)[-1]
    assert torch.equal(coarsest, expected)
    state["unheard.of"] = torch.zeros(1)
    with pytest.raises(ModelError, match="unknown unheard.of"):
        load_state(trunk, state, "FILE", name)


def test_hub_offline_says_what_to_do(monkeypatch, tmp_path):
    import timm

    def offline(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ModelError, match="--weights FILE") as error:
        load_backbone("resnet34", "hub")
    assert "resnet34.tv_in1k" in str(error.value) and "no route" in str(error.value)


@pytest.mark.parametrize("name", BACKBONES)
def test_channels_and_strides(name):
    trunk = create_backbone(name, LEVELS)
    assert tuple(trunk.feature_info.channels()) == BACKBONES[name]
    assert trunk.feature_info.reduction() == list(STRIDES)


def test_timm_imports_where_torchvision_has_no_operators():
    """In a process of its own, as the first import decides."""
    code = "from adfast.models.backbones import import_timm; import_timm(); import torchvision"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=120)


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is not there (ADFAST_TEST_DATA)")
def test_real_weights_load():
    trunk, info = load_backbone("resnet18", str(REAL), (1, 2, 3))
    assert info["source"] == REAL.name
    with np.load(REAL) as arrays:
        weight, bias = arrays["conv1.weight"], arrays["conv1.bias"]
    x = torch.rand(1, 3, 64, 64)
    expected = torch.nn.functional.conv2d(
        x, torch.from_numpy(weight), torch.from_numpy(bias), stride=2, padding=3
    )
    with torch.no_grad():
        actual = trunk["bn1"].eval()(trunk["conv1"](x))
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()
    # Trained features respond to structure: far from those of noise in scale.
    assert all(f.mean() > 0.01 for f in features(trunk))
