"""torchvision's networks behind the same ModelSpec."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgecnn import catalog
from edgecnn.errors import ModelError
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph, Op
from edgecnn.models.layers import find_classifier
from edgecnn.models.pretrained import load_pretrained, pretrained_preprocess
from edgecnn.models.zoo import ModelSpec, build, named
from edgecnn.pipeline.inspecting import inspect
from edgecnn.pipeline.teaching import find
from edgecnn.spec import Preprocess

models = pytest.importorskip("torchvision.models")
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3


def captured(model: nn.Module, size: int) -> Graph:
    """The graph of the network with statistics as training leaves them, which computes the same."""
    for module in model.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[operator, union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[operator, union-attr]
    graph = capture(model, size, Preprocess(size, MEAN, STD))
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    with torch.no_grad():
        wanted = model((torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - MEAN[0]) / STD[0])
    assert torch.allclose(run(graph, images), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    return graph


def test_googlenet_gives_logits_and_its_pooling_hangs_over() -> None:
    torch.manual_seed(0)
    model = build(ModelSpec("torchvision:googlenet", 5, 64))
    assert find_classifier(model) == "fc"
    graph = captured(model, 64)
    pools = [node.attrs["padding"] for node in graph.nodes if node.op is Op.MAX_POOL]
    assert [0, 0, 1, 1] in pools
    assert len([node for node in graph.nodes if node.op is Op.CONCAT]) == 9
    assert model.train()(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


def test_densenets_first_norm_of_a_layer_stays_as_a_depthwise_convolution() -> None:
    torch.manual_seed(0)
    model = models.DenseNet(growth_rate=8, block_config=(2, 3), num_init_features=16, num_classes=5)
    graph = captured(model, 32)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    norms = [node for node in graph.nodes if node.op is Op.CONV and "norm" in node.name]
    # One in each of five layers, in the transition and at the end reads several tensors at once; the others are folded.
    assert len(norms) == 5 + 1 + 1
    assert all(node.attrs["groups"] == node.shape[0] and node.attrs["clamp"] == [0.0, None] for node in norms)
    assert sum(node.op is Op.CONV for node in graph.nodes) == convolutions + len(norms)


def test_alexnet_is_captured_where_its_map_is_six_by_six_and_says_so_elsewhere() -> None:
    torch.manual_seed(0)
    model = models.AlexNet(num_classes=5)
    model.classifier[1], model.classifier[4], model.classifier[6] = nn.Linear(9216, 9), nn.Linear(9, 9), nn.Linear(9, 5)
    kinds = [node.op for node in captured(model, 224).nodes]
    assert (kinds.count(Op.CONV), kinds.count(Op.MAX_POOL), kinds.count(Op.LINEAR)) == (5, 3, 3)
    with pytest.raises(ModelError, match="adaptive pooling from 3x3 to 6x6") as caught:
        capture(model, 128, Preprocess(128, MEAN, STD))
    assert "image size" in caught.value.hint


def test_a_transformer_is_refused_with_all_its_operators() -> None:
    model = models.VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)
    with pytest.raises(ModelError, match=r"aten.layer_norm.*aten.scaled_dot_product_attention"):
        capture(model, 32, Preprocess(32, MEAN, STD))


@pytest.mark.parametrize(("name", "size"), [("alexnet", 224), ("inception_v3", 299), ("vit_h_14", 518)])
def test_the_size_and_the_published_totals_are_torchvisions(name: str, size: int) -> None:
    assert named(f"torchvision:{name}", 1000, None).image_size == size
    assert "arXiv" in catalog.model_row(f"torchvision:{name}").paper


@pytest.mark.parametrize("name", ["googlenet", "efficientnet_b0", "shufflenet_v2_x0_5"])
def test_totals_are_the_published_ones(name: str) -> None:
    found = inspect(f"torchvision:{name}", None, 1.0, 1000)
    assert found.row.published is not None
    assert found.params == found.row.published.params
    assert found.macs == pytest.approx(found.row.published.macs, rel=0.01, abs=1e6)


def test_dropout_activation_and_size_reach_torchvision() -> None:
    model = build(ModelSpec("torchvision:mobilenet_v2", 3, 64, dropout=0.4, activation="silu"))
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.4}
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())
    with pytest.raises(ModelError, match="97 px"):
        build(ModelSpec("torchvision:vit_b_32", 3, 97))
    with pytest.raises(ModelError, match="no dropout"):
        build(ModelSpec("torchvision:densenet121", 3, 64, dropout=0.4))


def test_an_unknown_name_and_foreign_options_are_refused() -> None:
    with pytest.raises(ModelError) as caught:
        named("torchvision:alexnt", 10, None)
    assert "torchvision:alexnet" in caught.value.hint
    with pytest.raises(ModelError, match="width"):
        build(ModelSpec("torchvision:squeezenet1_1", 10, 64, width=0.5))
    with pytest.raises(ModelError, match="no classifier"):
        build(ModelSpec("torchvision:fasterrcnn_resnet50_fpn", 10, 64))


def test_its_weights_are_downloaded_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = build(ModelSpec("torchvision:squeezenet1_1", 1000, 64))
    model, asked = build(ModelSpec("torchvision:squeezenet1_1", 1000, 64)), []

    def get_model(name: str, **options: object) -> nn.Module:
        asked.append((name, options))
        return theirs

    monkeypatch.setattr(models, "get_model", get_model)
    assert load_pretrained(model, "torchvision", 1000).missing == ()
    assert asked == [("squeezenet1_1", {"weights": "DEFAULT"})]
    assert torch.equal(model.state_dict()["features.0.weight"], theirs.state_dict()["features.0.weight"])
    with pytest.raises(ModelError, match="networks of torchvision only"):
        load_pretrained(build(ModelSpec("resnet8", 10, 32)), "torchvision", 10)


def test_without_a_network_the_download_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ModelError, match="torchvision:squeezenet1_1 could not be downloaded"):
        load_pretrained(build(ModelSpec("torchvision:squeezenet1_1", 10, 64)), "torchvision", 10)


def test_what_its_weights_want_of_a_picture() -> None:
    p = pretrained_preprocess(ModelSpec("torchvision:alexnet", 5, 128), "torchvision")
    assert p is not None
    assert (p.size, p.mean, p.crop_fraction) == (128, (0.485, 0.456, 0.406), 224 / 256)
    p = pretrained_preprocess(ModelSpec("torchvision:googlenet", 5, 96), "torchvision")
    assert p is not None
    assert p.mean == p.std == (0.5, 0.5, 0.5)


def test_pictures_for_googlenets_weights_are_what_its_own_transformation_makes_of_the_usual_ones() -> None:
    theirs = models.GoogLeNet(num_classes=3, aux_logits=False, transform_input=True, init_weights=False).eval()
    pixels, p = torch.rand(1, 3, 8, 8), pretrained_preprocess(ModelSpec("torchvision:googlenet", 3, 8), "torchvision")
    assert p is not None
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    wanted = theirs._transform_input((pixels - mean) / std)
    assert torch.allclose((pixels - p.mean[0]) / p.std[0], wanted, atol=1e-6)


def test_it_can_teach(tmp_path: object) -> None:
    assert find("torchvision:alexnet", tmp_path, ()).folder is None  # type: ignore[arg-type]


@pytest.mark.parametrize(("spec", "words"), [(("mnasnet0_5", 3), "read back from a bundle"), (("alexnet", 1), "three")])
def test_what_no_bundle_could_hold_is_refused(spec: tuple[str, int], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build(ModelSpec(f"torchvision:{spec[0]}", 3, 64, channels=spec[1]))
