"""What every row of the zoo must do: build from JSON, run, count as the paper does, prune, rebuild bit-identically."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import edgecnn
from edgecnn import catalog
from edgecnn.compress.prune import prune
from edgecnn.models import channel_plan
from edgecnn.models.layers import find_classifier, layer_table, totals
from edgecnn.models.pretrained import load_pretrained
from edgecnn.models.zoo import ModelSpec, build

TIMM = ("timm:tf_efficientnet_lite0", "timm:mobilenetv3_small_100") if importlib.util.find_spec("timm") else ()
TORCHVISION = ("torchvision:mobilenet_v2",) if importlib.util.find_spec("torchvision") else ()
ROWS = (*catalog.MODELS, *TIMM, *TORCHVISION)

PUBLISHED = {name: row.published for name, row in catalog.MODELS.items() if row.published is not None}
# Nobody's but edgecnn's own: the six convolutions, their batch norms and two dense layers, added up by hand.
BY_HAND = {"plain_cnn": catalog.Published(10, 286_560 + 896 + 16_512 + 1_290, 38.65e6)}
# How far the multiply-adds may be off: the papers round, and V3-large's authors count a little more.
ROUNDED = {
    **dict.fromkeys(("mobilenet_v1", "mobilenet_v2", "mcunet", "resnet8", "squeezenet"), 0.01),
    **dict.fromkeys(("mobilenet_v3_small", "mobilenet_v3_large", "resnet18", "resnet34"), 0.02),
    **dict.fromkeys(("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5"), 0.015),
    "mobilenet_v4_small": 0.05,
    **{f"efficientnet_lite{number}": 0.06 for number in range(5)},
}
# Larger sisters of a network that is tested whole: a quarter of the width says as much in less time.
NARROW = {**{f"efficientnet_lite{number}": 0.25 for number in range(1, 5)}, "shufflenet_v2_x1_5": 0.25}

FRESH_PROCESS = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from edgecnn.models import channel_plan
from edgecnn.models.zoo import ModelSpec, build

torch.set_num_threads(1)
for folder in sorted(Path(sys.argv[1]).iterdir()):
    model = build(ModelSpec.from_dict(json.loads((folder / "spec.json").read_text())))
    channel_plan.apply(model, json.loads((folder / "plan.json").read_text()))
    model.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
    saved = load_file(folder / "golden.safetensors")
    with torch.no_grad():
        print(folder.name, torch.equal(model(saved["images"]), saved["logits"]))
"""


def spec_of(name: str, size: int) -> ModelSpec:
    return ModelSpec(name, 7, size, width=NARROW.get(name, 1.0))


def lively(spec: ModelSpec, seed: int = 0) -> nn.Module:
    """A network whose batch norms are not at their start, so that its logits are far from zero."""
    torch.manual_seed(seed)
    model = build(spec)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.6)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.3, 0.9)
    return model


def test_every_row_has_a_published_count() -> None:
    assert {*PUBLISHED, *BY_HAND} == set(catalog.MODELS)


@pytest.mark.parametrize("name", catalog.MODELS)
def test_it_counts_what_the_paper_counts(name: str) -> None:
    published, size = (PUBLISHED | BY_HAND)[name], catalog.MODELS[name].default_size
    counted_params, counted_macs = totals(build(ModelSpec(name, published.classes, size)), size)
    assert counted_params == published.params
    assert counted_macs == pytest.approx(published.macs, rel=ROUNDED.get(name, 0.001))


@pytest.mark.parametrize("name", ROWS)
def test_it_runs_at_32_and_64_px_and_with_any_batch(name: str) -> None:
    for size in (32, 64):
        model = build(spec_of(name, size))
        assert not model.training
        with torch.no_grad():
            logits = model(torch.randn(3, 3, size, size))
        assert logits.shape == (3, 7)
        assert logits.dtype == torch.float32


@pytest.mark.parametrize("name", ROWS)
def test_it_learns_with_gradients_everywhere(name: str) -> None:
    model = build(spec_of(name, 32)).train()
    nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("name", ROWS)
def test_the_layer_table_accounts_for_every_parameter(name: str) -> None:
    model = build(spec_of(name, 32))
    rows = layer_table(model, 32)
    assert sum(row.params for row in rows) == totals(model, 32)[0]
    assert rows[-1].name == find_classifier(model)
    assert rows[-1].output_shape == (7,)


@pytest.mark.parametrize("name", ROWS)
def test_building_again_from_json_gives_the_same_shapes(name: str) -> None:
    spec = spec_of(name, 32)
    again = build(ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))))
    assert channel_plan.extract(again) == channel_plan.extract(build(spec))


def test_pruned_and_rebuilt_in_a_fresh_process_the_logits_are_the_same_bits(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number, name in enumerate(ROWS):
            write_pruned(spec_of(name, 64), tmp_path / f"{number:02}")
    finally:
        torch.set_num_threads(threads)
    root = str(Path(edgecnn.__path__[0]).parent)
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{number:02} True" for number in range(len(ROWS))]


def write_pruned(spec: ModelSpec, folder: Path) -> None:
    model = lively(spec)
    report = prune(model, spec.image_size, 0.4)
    assert report.achieved_channels > 0.2
    assert report.achieved_macs > 0.25
    images = torch.randn(2, 3, spec.image_size, spec.image_size)
    with torch.no_grad():
        logits = model(images)
    assert logits.isfinite().all()
    assert logits.std() > 1e-6
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(spec.to_dict()))
    (folder / "plan.json").write_text(json.dumps(channel_plan.extract(model)))
    save_file(model.state_dict(), folder / "weights.safetensors")
    save_file({"images": images, "logits": logits}, folder / "golden.safetensors")


@pytest.mark.parametrize("name", ROWS)
def test_a_pruned_network_still_learns(name: str) -> None:
    model = lively(spec_of(name, 32))
    prune(model, 32, 0.4)
    model.train()
    nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name in ROWS if name not in TORCHVISION])
def test_a_grey_network_gives_what_the_rgb_one_gives_for_three_equal_channels(name: str, tmp_path: Path) -> None:
    rgb, spec = lively(ModelSpec(name, 7, 32)), ModelSpec(name, 7, 32, channels=1)
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    grey = build(spec)
    save_file(rgb.state_dict(), tmp_path / "w.safetensors")
    load_pretrained(grey, str(tmp_path / "w.safetensors"), 7)
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        wanted = rgb(images.repeat(1, 3, 1, 1))
        torch.testing.assert_close(grey(images), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    first, theirs = layer_table(grey, 32)[0], layer_table(rgb, 32)[0]
    assert first.macs * 3 == theirs.macs and first.output_shape == theirs.output_shape
    if name in ("resnet8", "mobilenet_v3_small"):  # pruning knows nothing of the family
        prune(grey, 32, 0.4)
        channel_plan.apply(build(spec), channel_plan.extract(grey))
