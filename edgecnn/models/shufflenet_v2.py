"""ShuffleNetV2: half of the channels pass, half are worked on, and a shuffle mixes them.

Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018, arXiv:1807.11164; the
units are Figure 3 (c) and (d), the channels Table 5. At 224 px and 1000 classes the paper counts 41, 146 and 299 M
multiply-adds and 1.4, 2.3 and 3.5 M parameters for x0.5, x1.0 and x1.5; torchvision has the same tensors in the same
order (1,366,792, 2,278,604 and 3,503,624), so its weights load by order.

A shuffle fixes which channel of one unit meets which of the next, so the channels between units cannot be pruned: only
those inside the branches, of the stem and of the last convolution (``parts`` says this to the pruner).
"""

from __future__ import annotations

import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.models.blocks import conv_bn, initialize
from edgecnn.models.model_spec import ModelSpec, StageRow, plan_strides

STEM_CHANNELS = 24
HEAD_CHANNELS = 1024
REPEATS = (4, 8, 4)
# Table 5: channels of stages 2, 3 and 4. The channels of other widths are in proportion to x1.0's.
CHANNELS = {0.5: (48, 96, 192), 1.0: (116, 232, 464), 1.5: (176, 352, 704)}
GROUPS = 2


class Branch(nn.Module):
    """1x1, depthwise, 1x1; ReLUs around the 1x1 convolutions, none behind the depthwise one."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: str) -> None:
        """A branch (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        super().__init__()
        self.expand = conv_bn(inputs, outputs, 1, act=act)
        self.depthwise = conv_bn(outputs, outputs, 3, stride=stride, groups=outputs)
        self.project = conv_bn(outputs, outputs, 1, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return y


class Shortcut(nn.Module):
    """What stands beside the branch where the channels change: depthwise, 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: str) -> None:
        """A shortcut (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        super().__init__()
        self.depthwise = conv_bn(inputs, inputs, 3, stride=stride, groups=inputs)
        self.project = conv_bn(inputs, outputs, 1, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y: torch.Tensor = self.project(self.depthwise(x))
        return y


class Unit(nn.Module):
    """Two halves and a shuffle: the input split (Figure 3 c), or, where a stage begins, worked on twice (d)."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: str, *, first: bool) -> None:
        """A unit (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        super().__init__()
        half = outputs // 2
        self.shortcut = Shortcut(inputs, half, stride, act) if first else None
        self.branch = Branch(inputs if first else half, half, stride, act)
        self.shuffle = nn.ChannelShuffle(GROUPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        left, right = self.halves(x)
        passed = left if self.shortcut is None else self.shortcut(left)
        y: torch.Tensor = self.shuffle(torch.cat([passed, self.branch(right)], 1))
        return y

    def halves(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the shortcut reads and what the branch reads."""
        if self.shortcut is not None:
            return x, x
        left, right = x.chunk(2, 1)
        return left, right


class ShuffleNetV2(nn.Module):
    """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""

    def __init__(self, spec: ModelSpec, width: float) -> None:
        """The network of that spec and of ``width`` times the paper's channels, with fresh weights.

        Raises ModelError on a malformed table.
        """
        super().__init__()
        act = spec.activation or "relu"
        rows = [_checked(row) for row in spec.stages or _table(width)]
        stem_stride, (pool_stride, *strides) = plan_strides(spec, 2, [2, *[stride for *_, stride in rows]])
        self.stem = conv_bn(spec.channels, STEM_CHANNELS, 3, stride=stem_stride, act=act)
        self.pool = nn.MaxPool2d(3, pool_stride, 1) if pool_stride > 1 else nn.Identity()
        channels, stages = STEM_CHANNELS, list[nn.Module]()
        for (outputs, repeats, _), stride in zip(rows, strides, strict=True):
            units = [Unit(channels, outputs, stride, act, first=True)]
            units += [Unit(outputs, outputs, 1, act, first=False) for _ in range(repeats - 1)]
            stages.append(nn.Sequential(*units))
            channels = outputs
        self.stages = nn.Sequential(*stages)
        head = spec.head or HEAD_CHANNELS
        self.head = conv_bn(channels, head, 1, act=act)
        self.dropout = nn.Dropout(spec.dropout or 0.0)
        self.classifier = nn.Linear(head, spec.num_classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) float32 -> logits (N, num_classes) float32."""
        return self.classify(self.stages(self.pool(self.stem(x))))

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """The last feature map (N, C, H, W) -> logits (N, num_classes)."""
        logits: torch.Tensor = self.classifier(self.dropout(self.head(x).mean((2, 3))))
        return logits

    def parts(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The parts between which all channels keep their places: images (N, 3, H, W) -> what each gives, apart.

        They are the stem with the branches that read it, every other branch, and the head with the classifier.
        """
        x, found = self.pool(self.stem(images)), list[torch.Tensor]()
        for unit in self._units():
            left, right = unit.halves(x)
            worked = unit.branch(right)
            passed = left if unit.shortcut is None else unit.shortcut(left)
            found += [worked] if unit.shortcut is None else [passed, worked]
            x = unit.shuffle(torch.cat([passed, worked], 1)).detach()
        return [*found, self.classify(x)]

    def fixed_layers(self) -> tuple[str, ...]:
        """The layers whose outputs go from part to part."""
        paths = []
        for stage, units in enumerate(self.stages.children()):
            for number, _ in enumerate(units.children()):
                path = f"stages.{stage}.{number}"
                paths.append(f"{path}.branch.project")
                if number == 0:
                    # A depthwise layer that reads what is fixed is as wide; the first stage's reads the stem.
                    paths += [f"{path}.shortcut.project"] + ([f"{path}.shortcut.depthwise"] if stage else [])
        return tuple(paths)

    def _units(self) -> list[Unit]:
        return [unit for unit in self.stages.modules() if isinstance(unit, Unit)]


def shufflenet_v2_x0_5(spec: ModelSpec) -> nn.Module:
    """ShuffleNetV2 x0.5 of that spec. Raises ModelError on a malformed table."""
    return ShuffleNetV2(spec, 0.5 * spec.width)


def shufflenet_v2_x1_0(spec: ModelSpec) -> nn.Module:
    """ShuffleNetV2 x1.0 of that spec. Raises ModelError on a malformed table."""
    return ShuffleNetV2(spec, spec.width)


def shufflenet_v2_x1_5(spec: ModelSpec) -> nn.Module:
    """ShuffleNetV2 x1.5 of that spec. Raises ModelError on a malformed table."""
    return ShuffleNetV2(spec, 1.5 * spec.width)


def _table(width: float) -> tuple[tuple[int, int, int], ...]:
    """Channels, repeats and stride of the three stages; both halves of the channels are whole."""
    channels = CHANNELS.get(width) or tuple(max(2, 2 * round(wide * width / 2)) for wide in CHANNELS[1.0])
    return tuple((wide, repeats, 2) for wide, repeats in zip(channels, REPEATS, strict=True))


def _checked(row: StageRow) -> tuple[int, int, int]:
    """(channels, repeats, stride), if the row is that."""
    numbers = [value for value in row if isinstance(value, int) and value > 0]
    if len(row) != 3 or len(numbers) != 3 or numbers[0] % 2:
        raise ModelError(
            f"{list(row)} is not a ShuffleNetV2 stage",
            hint="a stage is [channels, repeats, stride], whole and positive, the channels even",
        )
    return numbers[0], numbers[1], numbers[2]
