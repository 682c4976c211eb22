"""Training on a GPU: written for machines that have one, skipped everywhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecnn.compress.calibrate import calibrate
from edgecnn.compress.qat import FakeQuantized, to_numbers
from edgecnn.compress.quantize import decompose, quantize
from edgecnn.data.tensors import ImageTensors
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import GraphModule, run
from edgecnn.models.zoo import ModelSpec, build
from edgecnn.spec import Preprocess, Task
from edgecnn.train.config import TrainConfig
from edgecnn.train.evaluate import predict_logits
from edgecnn.train.loop import fit

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

HALF = Preprocess(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def bright_or_dark(count: int) -> ImageTensors:
    """Two classes that any network tells apart."""
    labels = np.arange(count) % 2
    noise = np.random.default_rng(0).integers(0, 80, (count, 32, 32, 3))
    images = (noise + 150 * labels[:, None, None, None]).astype(np.uint8)
    return ImageTensors(images, labels.astype(np.int64), tuple(map(str, range(count))))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_training_on_the_gpu_learns_and_comes_back_on_the_cpu(tmp_path: Path, precision: str) -> None:
    torch.manual_seed(0)
    model = build(ModelSpec("resnet8", 2, 32))
    config = TrainConfig(epochs=6, batch_size=32, lr=0.05, ema=None, device="cuda", precision=precision)
    result = fit(model, bright_or_dark(256), bright_or_dark(64), HALF, config, tmp_path)
    assert result.best_top1 > 0.95
    assert next(model.parameters()).device.type == "cpu"
    assert predict_logits(model, bright_or_dark(8).images, HALF).argmax(1).tolist() == [0, 1] * 4


def test_auto_is_bf16_where_the_gpu_has_it_and_else_fp16(tmp_path: Path) -> None:
    model = build(ModelSpec("resnet8", 2, 32))
    config = TrainConfig(epochs=1, batch_size=32, lr=0.05, ema=None, device="cuda")
    result = fit(model, bright_or_dark(64), bright_or_dark(64), HALF, config, tmp_path)
    assert result.precision == ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16")


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTI_LABEL])
def test_one_logit_and_labels_of_grey_pictures_are_learned_on_the_gpu(tmp_path: Path, task: Task) -> None:
    torch.manual_seed(0)
    sets = []
    for part in (bright_or_dark(256), bright_or_dark(64)):
        several = np.stack([part.labels, 1 - part.labels], axis=1).astype(np.uint8)
        labels = several if task is Task.MULTI_LABEL else part.labels
        sets.append(replace(part, images=part.images[..., :1], labels=labels))
    model = build(ModelSpec("resnet8", 1 if task is Task.BINARY else 2, 32, channels=1))
    settings = {"balance": True, "trivial": True, "mixup": 0.1, "task": task, "device": "cuda"}
    config = TrainConfig(epochs=6, batch_size=32, lr=0.05, ema=None, **settings)  # type: ignore[arg-type]
    assert fit(model, *sets, Preprocess(32, (0.5,), (0.25,)), config, tmp_path).best_top1 > 0.9


@pytest.mark.parametrize("setting", ["compile", "deterministic"])
def test_a_training_on_the_gpu_can_be_compiled_and_repeated(tmp_path: Path, setting: str) -> None:
    losses = []
    for attempt in range(2):
        torch.manual_seed(0)
        model = build(ModelSpec("resnet8", 2, 32))
        settings = {"epochs": 2, "batch_size": 32, "ema": None, "device": "cuda", "precision": "fp32", setting: True}
        config = TrainConfig(lr=0.05, **settings)  # type: ignore[arg-type]
        result = fit(model, bright_or_dark(256), bright_or_dark(64), HALF, config, tmp_path / str(attempt))
        losses.append(result.history[-1]["train_loss"])
    assert losses[0] == losses[1] if setting == "deterministic" else losses[0] == pytest.approx(losses[1], rel=0.05)


def test_the_integers_of_a_network_are_the_same_on_the_gpu() -> None:
    images = bright_or_dark(16).images
    graph = capture(build(ModelSpec("mobilenet_v3_small", 2, 32)).eval(), 32, HALF)
    numbers = quantize(graph, calibrate(graph, [images]))
    on_gpu = GraphModule(numbers).eval().cuda()(torch.from_numpy(images).cuda())
    np.testing.assert_array_equal(on_gpu.cpu().numpy(), run(numbers, images).numpy())


def test_quantization_aware_training_on_the_gpu_ends_in_good_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    train, val = bright_or_dark(256), bright_or_dark(64)
    model = build(ModelSpec("resnet8", 2, 32))
    settings = {"batch_size": 32, "ema": None, "device": "cuda", "precision": "fp32"}
    fit(model, train, val, HALF, TrainConfig(epochs=4, lr=0.05, **settings), tmp_path / "float")  # type: ignore[arg-type]
    graph = capture(model.eval(), 32, HALF)
    numbers = quantize(graph, calibrate(graph, [train.images[:64]]))
    fake = FakeQuantized(decompose(graph), numbers)
    result = fit(fake, train, val, HALF, TrainConfig(epochs=2, lr=0.001, **settings), tmp_path / "int8")  # type: ignore[arg-type]
    assert result.best_top1 > 0.95
    learned = run(to_numbers(fake), val.images).numpy()
    assert (learned.argmax(1) == val.labels).mean() > 0.95
