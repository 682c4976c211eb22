"""What the fast backward pass of depthwise convolutions is worth: training steps with and without, interleaved.

    python benchmarks/depthwise_training.py

The network of recipes/cifar10-distilled.yaml (``mobile``), batch 128 at 32 px, one thread; the ratio of medians of
blocks of steps, above 1 where it is faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from figures import record, save_result
from torch import nn

from edgecnn import recipe
from edgecnn.models.zoo import build
from edgecnn.pipeline.preparing import model_spec
from edgecnn.spec import Interval
from edgecnn.steps import TrainStep
from edgecnn.train.depthwise import fast_depthwise

RECIPE = Path(__file__).parent.parent / "recipes" / "cifar10-distilled.yaml"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def seconds(model: nn.Module, precision: str, fast: bool, steps: int) -> float:
    """The time of so many steps. On the device "cuda" the context changes nothing, so the CPU keeps its own pass."""
    images = torch.randn(128, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.arange(128) % 10
    with fast_depthwise(model, CPU if fast else CUDA):
        since = time.perf_counter()
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = nn.functional.cross_entropy(model(images).float(), labels)
            model.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
        return time.perf_counter() - since


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    step = next(step for step in recipe.load(RECIPE).steps if isinstance(step, TrainStep) and step.output == "mobile")
    model = build(model_spec(step, 10)).train().to(memory_format=torch.channels_last)
    found = {}
    for precision in ("bf16", "fp32"):
        seconds(model, precision, True, 2)
        pairs = [
            (seconds(model, precision, False, args.steps), seconds(model, precision, True, args.steps))
            for _ in range(args.blocks)
        ]
        ratios = [usual / fast for usual, fast in pairs]
        found[precision] = {"ratios": ratios, "images_per_second": 128 * args.steps / min(fast for _, fast in pairs)}
        value = statistics.median(ratios)
        record(f"depthwise_training_{precision}", Interval(value, min(ratios), max(ratios), len(ratios)), "ratio")
    save_result("depthwise_training", found)


if __name__ == "__main__":
    main()
