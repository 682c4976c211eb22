"""Where an int8 network loses accuracy, layer by layer, and why.

Three measurements, on the same pictures: the noise of every layer by itself and of everything up to it
(:mod:`edgecnn.compress.layer_facts`), what the answers lose when only that layer is rounded and what they regain when
only that layer is not, and whether the ranges come from the pictures that the network reads
(:mod:`edgecnn.compress.range_origin`). The rules of :mod:`edgecnn.compress.reasons` say what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgecnn import tasks
from edgecnn.compress.causes import Reason
from edgecnn.compress.layer_facts import LayerFacts, measure, sqnr_db
from edgecnn.compress.range_origin import normalization_of, origin, reads_alike
from edgecnn.compress.ranges import Method
from edgecnn.compress.reasons import Case, explain, findings
from edgecnn.compress.simulate import Simulation
from edgecnn.errors import UsageError
from edgecnn.graph.interpret import Images, run
from edgecnn.graph.ir import WEIGHTED, Graph, Op
from edgecnn.graph.weights import real_weights
from edgecnn.spec import Task

SMALL = 32  # a network of so many layers has the sensitivity of each measured, a larger one of the worst
PROXY = 4  # pictures on which these are looked for
FEWEST_DB = 0.0  # SQNR of a layer's int8 weights below which they are not the float graph's

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Score:
    """How near logits are to the float network's: SQNR in dB, and the share of equal answers in [0, 1]."""

    db: float
    agreement: float


@dataclass(frozen=True)
class Layer:
    """A layer's facts, what it costs, and why.

    ``only``: the answers with nothing but this layer's weights and activation rounded; ``without``: with everything
    else rounded. ``None`` where they were not measured. ``reasons``: the one that explains most first.
    """

    facts: LayerFacts
    only: Score | None
    without: Score | None
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Diagnosis:
    """``whole`` is the int8 network against the float one; ``findings`` are of the whole network; ``layers`` the worst
    first: those whose sensitivity was measured by what the answers lose, the others by their own noise. ``order`` has
    their names in the order of the network.
    """

    images: int
    whole: Score
    findings: tuple[Reason, ...]
    layers: tuple[Layer, ...]
    order: tuple[str, ...]


def diagnose(
    real: Graph,
    integer: Graph,
    images: Images,
    *,
    calibration: Images | None = None,
    calibration_count: int | None = None,
    method: Method | None = "minmax",
    worst: int = 12,
    task: Task = Task.MULTI_CLASS,
    tell: Tell = lambda line: None,
) -> Diagnosis:
    """Explain what ``integer`` loses against ``real`` on images (N, H, W, C) uint8, not those of calibration.

    Args:
        real: the float graph that was quantized, in the terms of the int8 graph (``compress.quantize.decompose``).
        integer: the int8 graph.
        images: dozens are enough: noise is an average over all values of a tensor.
        calibration: the pictures that decided the ranges, if they are known: then the ranges must come out again.
        calibration_count: how many these were, where not all of them are given.
        method: how the ranges were decided on these; ``None``: not by calibration but by training.
        worst: of so many layers the sensitivity is measured in a network of more than ``SMALL``; each costs two passes
            over the pictures. They are those that cost most on ``PROXY`` pictures.
        tell: gets a line of progress at a time.

    Raises:
        UsageError: the graphs do not belong together, or there are no pictures.
        DataError: the float network is not finite on a picture.
    """
    if not len(images):
        raise UsageError("there are no pictures to diagnose on", hint="give at least one; 64 are a good number")
    simulation = Simulation(real, integer)
    _check_weights(real, integer)
    tell(f"measuring {len(integer.qparams)} tensors on {len(images)} pictures")
    facts = measure(simulation, images)
    reference = simulation.run(images, activations=False, weights=False)

    def score(logits: Tensor) -> Score:
        agreement = tasks.agreement(task, reference.numpy().astype(np.float64), logits.numpy().astype(np.float64))
        return Score(sqnr_db(reference, logits), agreement)

    if calibration is not None and calibration_count is None:
        calibration_count = len(calibration)
    found = findings(
        facts,
        alike=reads_alike(real, integer),
        origin=origin(real, integer, images if calibration is None else calibration, method) if method else None,
        known=calibration is not None,
        calibration_count=calibration_count,
    )
    case = Case(real, facts, found)
    names = [name for name, each in facts.items() if each.node.op is not Op.INPUT]
    suspects = names if len(names) <= SMALL else _suspects(simulation, names, images[:PROXY], worst, tell)
    only, without = {}, {}
    for number, name in enumerate(suspects, start=1):
        tell(f"sensitivity {number}/{len(suspects)}: {name}")
        rest = facts.keys() - {name}
        only[name] = score(simulation.run(images, activations={name}, weights={name}))
        without[name] = score(simulation.run(images, activations=rest, weights=rest))
    layers = [Layer(facts[name], only.get(name), without.get(name), explain(case, facts[name])) for name in names]
    layers.sort(key=lambda layer: (layer.only is None, layer.only.db if layer.only else layer.facts.own_db))
    return Diagnosis(len(images), score(run(integer, images)), found, tuple(layers), tuple(names))


def _suspects(simulation: Simulation, names: Sequence[str], images: Images, most: int, tell: Tell) -> list[str]:
    """The layers that cost the answers most on a few pictures, each rounded alone."""
    tell(f"looking for the {most} worst of {len(names)} layers on {len(images)} pictures")
    reference = simulation.run(images, activations=False, weights=False)
    costs = {name: sqnr_db(reference, simulation.run(images, activations={name}, weights={name})) for name in names}
    return sorted(names, key=costs.__getitem__)[:most]


def _check_weights(real: Graph, integer: Graph) -> None:
    """Raise ``UsageError`` where the integers of a layer are not those of its float weights at all."""
    normalize, stored = normalization_of(real), real_weights(integer)  # another mean or std is found and explained
    for node in real.nodes:
        if node.op in WEIGHTED and node != normalize:
            key = f"{node.name}.weight"
            ours, theirs = (torch.from_numpy(each[key]) for each in (real.weights, stored))
            if sqnr_db(ours, theirs) < FEWEST_DB and ours.any():
                raise UsageError(
                    f"the int8 weights of '{node.name}' are not those of the float graph's layer",
                    hint="give the very graph whose numbers were decided",
                )
