"""Networks with made-up weights but sensible activations, for latency: no data, no download.

Random weights alone give logits near zero; a few forward passes in training mode set the batch-normalization
statistics, after which every layer's output has unit scale and quantization ranges are those of a working net.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgecnn.models import zoo
from edgecnn.spec import Preprocess

SIZE = 224
PREPROCESS = Preprocess(SIZE, (127 / 255,) * 3, (128 / 255,) * 3)


def pictures(count: int, size: int = SIZE, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth random colour pictures (N, H, W, 3) uint8."""
    coarse = torch.rand(count, 3, 7, 7, generator=torch.Generator().manual_seed(seed))
    fine = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    return (fine * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def normalized(images: NDArray[np.uint8]) -> torch.Tensor:
    """What the network itself takes: (N, 3, H, W) float32."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PREPROCESS.mean, PREPROCESS.std))
    return (x - mean) / std


def network(name: str, seed: int = 0) -> nn.Module:
    """A model of the zoo at 224 px with settled batch-normalization statistics, in eval mode."""
    torch.manual_seed(seed)
    model = zoo.build(zoo.ModelSpec(name, 1000, SIZE))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.5
    model.train()
    with torch.no_grad():
        for step in range(4):
            model(normalized(pictures(8, seed=step)))
    return model.eval()
