"""A teacher's maps as hints for a student's (Romero et al., "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550).

A block of the student, the guided one, is to give what a block of the teacher, the hint, gives. A regressor stands
between them, because the teacher has other channels: here a 1x1 convolution, so both maps must have one size. It is
trained with the student, kept in the checkpoints, and no part of the network that comes out.

The paper trains up to the hint first and then distils. Here the hints are one more term of the loss from the first step
to the last. The teacher runs at every step: its maps are too large to be kept as its logits can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecnn.errors import UsageError
from edgecnn.models.layers import run_once
from edgecnn.train.config import TrainConfig
from edgecnn.train.distill import Teacher
from edgecnn.train.freezing import units

AUTO = "auto"
Shape = tuple[int, int, int]
"""Of a map: channels, height, width."""


@dataclass(frozen=True)
class Pair:
    """A guided block of the student and its hint in the teacher, by their paths, with the channels of both."""

    guided: str
    hint: str
    channels: tuple[int, int]


class Hints(nn.Module):
    """The student and its regressors: images (N, 3, H, W) -> logits (N, K), and its guided maps as the teacher's."""

    def __init__(self, student: nn.Module, teacher: nn.Module, pairs: Sequence[Pair], seed: int) -> None:
        """The regressors' first weights come from ``seed``; torch's global random state stays as it was."""
        super().__init__()
        self.student, self.pairs = student, tuple(pairs)
        self._teacher = [teacher]  # in a list it is no part of this module: it is not trained
        self._given: dict[str, Tensor] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.regressors = nn.ModuleList(nn.Conv2d(*pair.channels, 1) for pair in pairs)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, what the teacher computes becomes the hints of the batch."""
        with observed(self._teacher[0], [pair.hint for pair in self.pairs]) as maps:
            yield
        self._given = dict(maps)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits and regressed maps, in the order of the pairs."""
        with observed(self.student, [pair.guided for pair in self.pairs]) as maps:
            logits = self.student(images)
        regressors = zip(self.regressors, self.pairs, strict=True)
        return logits, [regressor(maps[pair.guided]) for regressor, pair in regressors]

    def loss(self, regressed: Sequence[Tensor], rows: slice) -> Tensor:
        """``1/2 || u - r(v) ||^2`` (equation 3) per element, the mean over pairs, for these rows of the batch's hints.

        The paper sums over the elements; a mean lets one ``hint_weight`` fit maps of any size.
        """
        found = [
            F.mse_loss(ours.float(), self._given[pair.hint][rows].float()) / 2
            for ours, pair in zip(regressed, self.pairs, strict=True)
        ]
        return torch.stack(found).mean()


def attach(model: nn.Module, size: int, teacher: Teacher | None, config: TrainConfig) -> Hints | None:
    """The hints that ``config`` asks for, if any, for pictures of ``size`` pixels. Raises UsageError."""
    if not config.hint_weight:
        return None
    if teacher is None:
        raise UsageError("hint_weight is set, and there is no teacher to give hints", hint="name a teacher")
    return Hints(model, teacher.model, find_pairs(model, size, teacher, config.hints), config.seed)


def find_pairs(model: nn.Module, size: int, teacher: Teacher, wanted: str) -> list[Pair]:
    """The pairs that ``wanted`` names, ``guided=hint`` joined by commas; ``auto``: at each size the last block of both.

    Raises UsageError where a block is not there, two maps differ in size, or no size is common.
    """
    if wanted == AUTO:
        ours, theirs = maps_of(model, size, units(model)), maps_of(teacher.model, teacher.p.size, units(teacher.model))
        last_of_ours, last_of_theirs = ({shape[1:]: path for path, shape in each.items()} for each in (ours, theirs))
        named = [(path, last_of_theirs[side]) for side, path in last_of_ours.items() if side in last_of_theirs]
        if not named:
            raise UsageError(
                f"student and teacher have no maps of one size: {_listed(ours)} against {_listed(theirs)}",
                hint="choose networks or image sizes that do, or leave hint_weight out",
            )
    else:
        named = [_split(each) for each in wanted.split(",")]
        ours = maps_of(model, size, [_there(model, path, "student") for path, _ in named])
        theirs = maps_of(teacher.model, teacher.p.size, [_there(teacher.model, path, "teacher") for _, path in named])
    return [_pair(guided, hint, ours, theirs) for guided, hint in named]


def maps_of(model: nn.Module, size: int, paths: Sequence[str]) -> dict[str, Shape]:
    """The shapes of the maps that these modules give for a picture of ``size`` pixels; vectors and 1x1 are no maps."""
    with observed(model, paths) as seen:
        run_once(model, size)
    shapes = {path: (seen[path].shape[1], seen[path].shape[2], seen[path].shape[3]) for path in paths if path in seen}
    return {path: shape for path, shape in shapes.items() if shape[1] > 1 and shape[2] > 1}


@contextmanager
def observed(model: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside, the (N, C, H, W) that the modules at ``paths`` give are put into the mapping that is yielded."""
    seen: dict[str, Tensor] = {}

    def keeper(path: str) -> Callable[..., None]:
        def keep(_: object, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.dim() == 4:
                seen[path] = output

        return keep

    handles = [model.get_submodule(path).register_forward_hook(keeper(path)) for path in paths]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _split(words: str) -> tuple[str, str]:
    guided, equals, hint = (each.strip() for each in words.partition("="))
    if not (guided and equals and hint):
        raise UsageError(
            f"hints has {words!r}, which is no pair",
            hint="write STUDENT_BLOCK=TEACHER_BLOCK, joined by commas; or auto",
        )
    return guided, hint


def _there(model: nn.Module, path: str, whose: str) -> str:
    if path not in dict(model.named_modules()):
        raise UsageError(f"the {whose} has no block {path!r}", hint=f"its blocks are {', '.join(units(model))}")
    return path


def _pair(guided: str, hint: str, ours: dict[str, Shape], theirs: dict[str, Shape]) -> Pair:
    for path, shapes, whose in ((guided, ours, "student"), (hint, theirs, "teacher")):
        if path not in shapes:
            raise UsageError(
                f"the {whose}'s {path} gives no map", hint="name a block between the first convolution and the pooling"
            )
    if ours[guided][1:] != theirs[hint][1:]:
        raise UsageError(
            f"the maps of a pair must have one size: {_listed({guided: ours[guided]})} of the student against "
            f"{_listed({hint: theirs[hint]})} of the teacher",
            hint="name blocks of one size, or let hints: auto choose them",
        )
    return Pair(guided, hint, (ours[guided][0], theirs[hint][0]))


def _listed(shapes: dict[str, Shape]) -> str:
    return ", ".join(f"{path} ({shape[1]} x {shape[2]})" for path, shape in shapes.items())
