"""MCUNet: inverted residuals whose kernels and widths a search chose for a microcontroller's memory.

Lin et al., "MCUNet: Tiny Deep Learning on IoT Devices", NeurIPS 2020, arXiv:2007.10319. The table below is the network
for 320 kB of memory and 1 MB of flash at 176 px: 62.2 % top-1 on ImageNet in the authors' repository, which counts 0.74
M parameters and 81.8 M multiply-adds. Its other networks come as JSON files, in the layout of once-for-all networks:
``--model PATH.json`` builds what such a file describes, and its weights, a .pth beside it, load by their order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecnn.errors import ModelError, UsageError
from edgecnn.models.blocks import conv_bn, initialize
from edgecnn.models.mobilenet_v2 import InvertedResidual
from edgecnn.models.model_spec import ModelSpec, StageRow, plan_strides, round_channels

STEM_CHANNELS = 16

# One row per block: kernel, channels inside (0: as many as come in), channels, stride.
MCUNET_320KB: tuple[StageRow, ...] = (
    (3, 0, 8, 1),
    (7, 24, 16, 2),
    (3, 80, 16, 1),
    (7, 80, 16, 1),
    (5, 64, 16, 1),
    (5, 80, 24, 2),
    (5, 120, 24, 1),
    (5, 120, 24, 1),
    (3, 120, 40, 2),
    (7, 240, 40, 1),
    (5, 160, 40, 1),
    (5, 200, 48, 1),
    (7, 240, 48, 1),
    (3, 240, 48, 1),
    (3, 288, 96, 2),
    (7, 480, 96, 1),
    (3, 384, 96, 1),
    (7, 480, 160, 1),
)


class MCUNet(nn.Module):
    """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""

    def __init__(self, spec: ModelSpec) -> None:
        """The network of that spec, with fresh weights. Raises ModelError on a malformed table."""
        super().__init__()
        act = spec.activation or "relu6"
        rows = [_checked(row) for row in spec.stages or MCUNET_320KB]
        stem_stride, strides = plan_strides(spec, 2, [row[3] for row in rows])
        channels = round_channels(STEM_CHANNELS * spec.width)
        self.stem = conv_bn(spec.channels, channels, 3, stride=stem_stride, act=act)
        blocks: list[nn.Module] = []
        for (kernel, inside, base, _), stride in zip(rows, strides, strict=True):
            outputs = round_channels(base * spec.width)
            hidden = round_channels(inside * spec.width) if inside else channels
            blocks.append(InvertedResidual(channels, hidden, outputs, kernel, stride, act))
            channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(spec.dropout or 0.0)
        self.classifier = nn.Linear(channels, spec.num_classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""
        features = self.blocks(self.stem(x)).mean((2, 3))
        logits: torch.Tensor = self.classifier(self.dropout(features))
        return logits


def mcunet(spec: ModelSpec) -> nn.Module:
    """The network of that spec. Raises ModelError on options it does not have."""
    if spec.head is not None:
        raise ModelError("mcunet has no layer between pooling and classifier", hint="leave head out")
    return MCUNet(spec)


def read_json(path: Path) -> tuple[tuple[StageRow, ...], int]:
    """The table and the image size in a file of the authors' repository.

    Raises UsageError where there is no such file, ModelError where it describes what is not built here.
    """
    try:
        described: dict[str, Any] = json.loads(path.read_text())
        blocks = [block["mobile_inverted_conv"] for block in described["blocks"]]
        stem = described["first_conv"]["out_channels"]
        plain = stem == STEM_CHANNELS and described.get("feature_mix_layer") is None
        plain = plain and not any(block.get("use_se") for block in blocks)
        rows = tuple((b["kernel_size"], _inside(b), b["out_channels"], b["stride"]) for b in blocks)
        size = int(described.get("resolution", 176))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="name the JSON file of an MCUNet network") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} describes no MCUNet: {type(error).__name__}: {error}",
            hint="the JSON files of the authors' repository have first_conv, blocks and classifier",
        ) from error
    if not plain:
        raise ModelError(
            f"{path} has a stem of {stem} channels, squeeze-excite or a layer before the pooling",
            hint=f"built here are networks with {STEM_CHANNELS} channels in the stem and none of the others",
        )
    return rows, size


def _inside(block: dict[str, Any]) -> int:
    """Channels after the expansion; 0 where there is none."""
    if block["expand_ratio"] == 1:
        return 0
    return int(block.get("mid_channels") or round(block["in_channels"] * block["expand_ratio"]))


def _checked(row: StageRow) -> tuple[int, int, int, int]:
    """The row, if it is one."""
    numbers = [value for value in row if isinstance(value, int)]
    if len(row) != 4 or len(numbers) != 4 or min(numbers) < 0 or 0 in (numbers[0], numbers[2], numbers[3]):
        raise ModelError(
            f"{list(row)} is not an MCUNet block", hint="a block is [kernel, channels inside or 0, channels, stride]"
        )
    return numbers[0], numbers[1], numbers[2], numbers[3]
