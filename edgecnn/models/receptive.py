"""Receptive fields: of how many pixels, along a side of the picture, one place of a layer's output knows.

Followed along the real dataflow while the network runs (Araujo, Norris and Sim, "Computing Receptive Fields of
Convolutional Neural Networks", Distill 2019, doi:10.23915/distill.00021): a convolution or a pooling with kernel k and
stride s makes

    r_out = r_in + (k - 1) * jump_in,    jump_out = jump_in * s

What joins several tensors has the largest field among them. Behind a global pooling, a dense layer over a whole map or
attention it is the whole picture, and so it is behind the gate of a squeeze-excite block. The field may be larger than
the picture: then it is one of padding too. Upsampling is not followed, and statistics of normalizations do not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

WHOLE = "all"
POOLS = ("max_pool2d_with_indices", "max_pool2d", "avg_pool2d")
ADAPTIVE_POOLS = ("_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")
REDUCTIONS = ("mean", "sum", "amax")
DENSE = ("mm", "addmm", "linear")
PRODUCTS = ("bmm", "baddbmm")


@dataclass(frozen=True)
class Field:
    """What one place of a tensor knows, as (height, width).

    ``size``: pixels, infinite for the whole picture; ``jump``: pixels from one place to the next; ``places``: how many
    there are.
    """

    size: tuple[float, float]
    jump: tuple[int, int]
    places: tuple[int, int]

    def slid_over(self, kernel: Sequence[int], stride: Sequence[int], places: Sequence[int]) -> Field:
        """Behind windows of ``kernel`` at every ``stride``-th place."""
        height, width = (r + (k - 1) * jump for r, k, jump in zip(self.size, kernel, self.jump, strict=True))
        down, right = (jump * step for jump, step in zip(self.jump, stride, strict=True))
        return Field((height, width), (down, right), (places[0], places[1]))

    def whole(self) -> Field:
        """One place that knows everything."""
        return Field((math.inf, math.inf), self.jump, (1, 1))


class ReceptiveFields(TorchDispatchMode):
    """While this is open, every tensor that is computed from the picture has a field."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fields: Any = WeakTensorKeyDictionary()

    def start(self, picture: Tensor) -> None:
        """A pixel (of (N, C, H, W)) knows of itself."""
        self._fields[picture] = Field((1, 1), (1, 1), (picture.shape[2], picture.shape[3]))

    def of(self, tensor: Tensor) -> int | str:
        """Pixels along the longer side, or ``all``; 0 for what does not depend on the picture."""
        field = self._fields.get(tensor)
        size = 0.0 if field is None else max(field.size)
        return WHOLE if math.isinf(size) else int(size)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Compute as ever, and note the field of what comes out."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf in self._fields]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if given and made:
            schema = func._schema
            values = {each.name: each.default_value for each in schema.arguments if each.has_default_value()}
            values |= dict(zip((each.name for each in schema.arguments), args, strict=False)) | kwargs
            field = _behind(schema.name.removeprefix("aten::"), values, [self._fields[leaf] for leaf in given], made[0])
            for leaf in made:
                self._fields[leaf] = field
        return result


def _behind(name: str, values: dict[str, Any], given: Sequence[Field], result: Tensor) -> Field:
    """The field behind the operator ``name`` with the arguments ``values``, which read the fields ``given``."""
    field = _largest(given)
    if name == "convolution" and result.dim() == 4 and not values["transposed"]:
        kernel = [d * (k - 1) + 1 for k, d in zip(values["weight"].shape[2:], _pair(values["dilation"]), strict=True)]
        return field.slid_over(kernel, _pair(values["stride"]), result.shape[2:])
    if name in POOLS:
        size, dilation = _pair(values["kernel_size"]), _pair(values.get("dilation", 1))
        kernel = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
        covers = all(k >= places for k, places in zip(kernel, field.places, strict=True))
        if covers and not any(_pair(values["padding"])):
            return field.whole()
        return field.slid_over(kernel, _pair(values["stride"] or size), result.shape[2:])
    if name in ADAPTIVE_POOLS:
        sides = [(places, made) for places, made in zip(field.places, result.shape[2:], strict=True)]
        if all(made == 1 for _, made in sides):
            return field.whole()
        stride = [places // made for places, made in sides]
        kernel = [math.ceil(places / made) for places, made in sides]
        return field.slid_over(kernel, stride, result.shape[2:])
    over_places = name in REDUCTIONS and _reduces_places(values["self"].dim(), values.get("dim"))
    over_map = name in DENSE and result.dim() == 2 and len(result) == 1 and math.prod(field.places) > 1
    attention = "scaled_dot_product" in name or (name in PRODUCTS and len(given) > 1)
    return field.whole() if over_places or over_map or attention else field


def _largest(fields: Sequence[Field]) -> Field:
    height, width = (max(field.size[axis] for field in fields) for axis in (0, 1))
    down, right = (max(field.jump[axis] for field in fields) for axis in (0, 1))
    return Field((height, width), (down, right), max((field.places for field in fields), key=math.prod))


def _reduces_places(rank: int, dims: Sequence[int] | int | None) -> bool:
    """Whether a mean over ``dims`` is one over height and width, or over the tokens of (N, tokens, C)."""
    if dims is None or dims == []:
        return True
    first = 2 if rank >= 4 else 1
    return any(dim % rank >= first for dim in ([dims] if isinstance(dims, int) else dims))


def _pair(value: int | Sequence[int]) -> list[int]:
    values = [value] if isinstance(value, int) else [int(each) for each in value]
    return values * 2 if len(values) == 1 else values
