"""The fast backward pass of depthwise convolutions gives the gradients of the ordinary one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgecnn.models.zoo import ModelSpec, build
from edgecnn.train.depthwise import fast_depthwise, suits

CPU = torch.device("cpu")


def gradients(conv: nn.Module, x: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = conv(x)
    (y.float() * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))).sum().backward()
    assert x.grad is not None
    found = [y.detach(), x.grad, *[p.grad for p in conv.parameters() if p.grad is not None]]
    conv.zero_grad()
    return found


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(2, 9),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 6),
    side=st.tuples(st.integers(7, 12), st.integers(7, 12)),
    bias=st.booleans(),
)
def test_gradients_are_those_of_the_convolution(
    channels: int, kernel: int, stride: int, padding: int, side: tuple[int, int], bias: bool
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, kernel, stride, min(padding, kernel - 1), groups=channels, bias=bias)
    x = torch.randn(2, channels, *side)
    usual = gradients(conv, x)
    with fast_depthwise(conv, CPU) as changed:
        assert changed == 1
        fast = gradients(conv, x)
    assert len(fast) == len(usual)
    for mine, theirs in zip(fast, usual, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_bf16_autocast_is_followed() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, 2, 1, groups=8)
    x = torch.randn(4, 8, 16, 16).to(memory_format=torch.channels_last)
    usual = gradients(conv, x)
    with fast_depthwise(conv, CPU), torch.autocast("cpu", torch.bfloat16):
        fast = gradients(conv, x)
    assert fast[0].dtype == torch.bfloat16
    for mine, theirs in zip(fast, usual, strict=True):
        assert torch.linalg.norm(mine.float() - theirs) < 0.02 * torch.linalg.norm(theirs)


def test_the_network_is_what_it_was_afterwards() -> None:
    model = build(ModelSpec("mobilenet_v2", 3, 32, width=0.25))
    depthwise = [m for m in model.modules() if suits(m)]
    assert len(depthwise) == 17
    keys = list(model.state_dict())
    with pytest.raises(ValueError), fast_depthwise(model, CPU) as changed:
        assert changed == 17
        assert list(model.state_dict()) == keys
        raise ValueError
    assert all("forward" not in vars(m) for m in model.modules())


def test_only_the_processor_is_helped() -> None:
    model = build(ModelSpec("mobilenet_v2", 3, 32, width=0.25))
    with fast_depthwise(model, torch.device("cuda")) as changed:
        assert changed == 0


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 8, 3, 1, 1, groups=4),  # a channel multiplier
        nn.Conv2d(4, 4, 3, 1, 2, dilation=2, groups=4),
        nn.Conv2d(4, 4, 3, 1, 1, groups=2),
        nn.Conv2d(4, 4, (3, 1), 1, 1, groups=4),
        nn.Conv2d(4, 4, 3, 1, 3, groups=4),  # padding as wide as the kernel: no flipped convolution has it
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 3, 1, 1, groups=4, padding_mode="reflect"),
        nn.Conv2d(1, 1, 3, 1, 1),
    ],
)
def test_other_convolutions_are_left_alone(conv: nn.Conv2d) -> None:
    assert not suits(conv)
