"""Why a layer loses what it loses: rules with stated thresholds on what was measured.

Every rule is a function from a layer's facts (and the network around it) to its evidence in words, or nothing. They are
tried in the order in which one explains the next; what nothing explains is the plain cost of 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgecnn.compress.causes import Cause, Reason
from edgecnn.compress.layer_facts import GATE, LayerFacts, hard_swish_gate, is_hard_gate, span
from edgecnn.compress.range_origin import AS_IS, SAME, Origin, is_depthwise, normalization_of
from edgecnn.graph.ir import WEIGHTED, Graph, Node, Op
from edgecnn.graph.simplify import is_scale_shift

BIAS_SHIFT, ONE_SHIFT = 0.2, 0.5  # mean error of all channels, and of one, in standard deviations of the output ...
BIAS_SHARE, BIAS_DB = 0.5, 30.0  # ... if it is this share of the noise of weights, and the SQNR of weights is below
BLOWN, FEW_CHANNELS = 16.0, 0.05  # largest channel over the median one; at most 2, or this share of all, are as large
DEPTHWISE = 4.0  # the same ratio in a depthwise convolution: 2 of 8 bits are gone for the median channel
RESIDUAL = 4.0  # scale of one input of an addition over that of the other
TAIL = 4.0  # observed range over the range without 0.1 % at either end ...
SWISH_TAIL = 2.0  # ... around a hard-swish
LOBE, LOBE_LEVELS = 0.375, 8  # a hard-swish is negative from 0 to -3/8: so many levels are wanted there
SATURATED = 1e-3  # share of values beyond the grid, if some lie far beyond
UNUSED = 2.0  # width of the grid over that of the observed range
BEYOND = 0.05  # a range is left when values go so far beyond, in its widths
FEW_IMAGES, FEW_LEFT = 32, 0.1  # fewer calibration pictures are too few when so many tensors' ranges are left
TIMES = 0.3  # another way to read the pictures explains ranges that it brings so much nearer
OFF_KNOWN, OFF_UNKNOWN = 0.15, 0.4  # median distance that nothing explains: calibration pictures known, or not
OFF_OTHERS = 0.15  # as SAME, on pictures that are not those of calibration


@dataclass(frozen=True)
class Case:
    """The network around a layer: its float graph, the facts of all layers, and what was found of the whole."""

    graph: Graph
    facts: Mapping[str, LayerFacts]
    findings: tuple[Reason, ...] = ()

    def found(self, cause: Cause) -> bool:
        """Whether the whole network has this cause."""
        return any(each.cause is cause for each in self.findings)

    @cached_property
    def gating(self) -> set[str]:
        """The nodes of squeeze-excite branches, from the average to the product."""
        found: set[str] = set()
        for node in self.graph.nodes:
            if node.op is Op.MUL and _is_vector(self.graph.node(node.inputs[1])):
                waiting = [node.inputs[1]]
                while waiting:
                    branch = self.graph.node(waiting.pop())
                    if _is_vector(branch):
                        found.add(branch.name)
                        waiting += branch.inputs
                found.add(node.name)
        return found

    @cached_property
    def ends(self) -> tuple[str, str]:
        """The first and the last layer with weights."""
        normalize = normalization_of(self.graph)
        weighted = [node.name for node in self.graph.nodes if node.op in WEIGHTED and node != normalize]
        return (weighted[0], weighted[-1]) if weighted else ("", "")


def findings(
    facts: Mapping[str, LayerFacts], *, alike: bool, origin: Origin | None, known: bool, calibration_count: int | None
) -> tuple[Reason, ...]:
    """What is wrong with the whole network rather than with a layer.

    Args:
        facts: of every layer.
        alike: whether float and int8 network read a pixel as the same number.
        origin: where the first ranges come from; ``None``: from no pictures, they were trained.
        known: whether ``origin`` was found on the calibration pictures themselves.
        calibration_count: how many these are.
    """
    mismatch = _mismatch(alike, origin, known)
    few = None if mismatch else _few_images(facts, calibration_count)
    found = ((Cause.PREPROCESSING, mismatch), (Cause.FEW_IMAGES, few))
    return tuple(Reason(cause, evidence) for cause, evidence in found if evidence)


def explain(case: Case, facts: LayerFacts) -> tuple[Reason, ...]:
    """All causes that a layer shows, the one that explains most first; never empty."""
    found = ((cause, rule(case, facts)) for cause, rule in RULES)
    reasons = tuple(Reason(cause, evidence) for cause, evidence in found if evidence)
    return reasons or (Reason(Cause.ROUNDING, f"256 levels leave {facts.own_db:.0f} dB, as they do elsewhere"),)


def _mismatch(alike: bool, origin: Origin | None, known: bool) -> str | None:
    if not alike:
        return "the int8 network reads a pixel as another number than the float network: mean or std differ"
    if origin is None:
        return None
    least = SAME if known else OFF_OTHERS
    if origin.as_is >= least and origin.nearest <= TIMES * origin.as_is and origin.reading != AS_IS:
        return (
            f"the first ranges are {origin.as_is:.1%} of their width from the float network's on these pictures, and"
            f" only {origin.nearest:.1%} from those with {origin.reading}"
        )
    if origin.median >= (OFF_KNOWN if known else OFF_UNKNOWN):
        return f"most first ranges are {origin.median:.1%} of their width from the float network's on these pictures"
    return None


def _few_images(facts: Mapping[str, LayerFacts], count: int | None) -> str | None:
    left = [each for each in facts.values() if each.excess > BEYOND]
    if count is None or count >= FEW_IMAGES or len(left) < FEW_LEFT * len(facts):
        return None
    worst = max(left, key=lambda each: each.excess)
    return (
        f"{count} calibration picture{'s' * (count != 1)}, and values of others leave the ranges of {len(left)} of"
        f" {len(facts)} tensors, by up to {worst.excess:.0%} of the width ('{worst.name}')"
    )


def _bias_shift(case: Case, facts: LayerFacts) -> str | None:
    channel, one = facts.shifted_channel
    shifted = facts.bias_shift >= BIAS_SHIFT or one >= ONE_SHIFT
    if facts.weights_db is None or facts.weights_db > BIAS_DB or facts.bias_share < BIAS_SHARE or not shifted:
        return None
    return (
        f"the mean error is {facts.bias_shift:.2f} standard deviations of the output, {one:.2f} in channel {channel};"
        f" it makes {facts.bias_share:.0%} of the noise"
    )


def _unfused_bn(case: Case, facts: LayerFacts) -> str | None:
    readers = case.graph.consumers(facts.name)
    behind = readers[0] if len(readers) == 1 and facts.node.op in WEIGHTED else None
    for node in (facts.node, behind):
        if node is None or not _is_normalization(case.graph, node):
            continue
        where = f"'{node.name}' behind '{node.inputs[0]}'"
        if node.op is Op.AFFINE:
            return f"{where} only scales by {node.attrs['factor']:.3g}, with a rounding of its own"
        scale = np.abs(case.graph.weights[f"{node.name}.weight"])
        return f"{where} only scales channels, by {scale.min():.3g} to {scale.max():.3g}, with a rounding of its own"
    return None


def _is_normalization(graph: Graph, node: Node) -> bool:
    """Whether the node scales and shifts channels and could be part of a layer before it."""
    if node.op is Op.AFFINE:
        return not is_hard_gate(node) and graph.node(node.inputs[0]).op in WEIGHTED
    return is_scale_shift(graph, node) and node != normalization_of(graph)


def _blown_channel(case: Case, facts: LayerFacts) -> str | None:
    sources = [case.facts[name] for name in facts.node.inputs if name in case.facts] if facts.weights_db else []
    for each in (facts, *sources):
        few = max(2, FEW_CHANNELS * len(each.peaks))
        if each.node.attrs.get("clamp") != GATE and each.peak_ratio >= BLOWN and each.peaked <= few:
            which = "" if each is facts else f"its input '{each.name}': "
            return f"{which}channel {each.peaks.argmax()} reaches {each.peak_ratio:.0f} times the median channel's peak"
    return None


def _preprocessing(case: Case, facts: LayerFacts) -> str | None:
    if not case.found(Cause.PREPROCESSING):
        return None
    if facts.excess > BEYOND:
        return f"values go beyond its range by {facts.excess:.0%} of the width"
    return _unused(case, facts)


def _too_few(case: Case, facts: LayerFacts) -> str | None:
    if not case.found(Cause.FEW_IMAGES) or facts.excess <= BEYOND:
        return None
    return f"values go beyond its range by {facts.excess:.0%} of the width"


def _saturated(case: Case, facts: LayerFacts) -> str | None:
    if facts.saturated < SATURATED or facts.excess <= BEYOND:
        return None
    return f"{facts.saturated:.2%} of the values lie beyond [{facts.grid[0]:.3g}, {facts.grid[1]:.3g}]"


def _depthwise(case: Case, facts: LayerFacts) -> str | None:
    if not is_depthwise(facts.node) or facts.peak_ratio < DEPTHWISE:
        return None
    bits = np.log2(facts.peak_ratio)
    return (
        f"the largest channel reaches {facts.peak_ratio:.1f} times the median one, which has {8 - bits:.1f} bits left"
    )


def _residual(case: Case, facts: LayerFacts) -> str | None:
    if facts.node.op is not Op.ADD:
        return None
    steps = {name: case.facts[name].step for name in facts.node.inputs if name in case.facts}
    if len(steps) < 2 or max(steps.values()) < RESIDUAL * min(steps.values()):
        return None
    coarse = max(steps, key=steps.__getitem__)
    return f"the steps of '{coarse}' are {max(steps.values()) / min(steps.values()):.1f} times those it is added to"


def _hard_swish(case: Case, facts: LayerFacts) -> str | None:
    gated = hard_swish_gate(case.graph, facts.node) is not None
    before = any(hard_swish_gate(case.graph, each) for each in case.graph.consumers(facts.name)) and not gated
    if (gated or before) and facts.tail >= SWISH_TAIL and not is_hard_gate(facts.node):
        return f"0.1 % of the values stretch the range {facts.tail:.1f} times"
    if gated and LOBE / facts.step < LOBE_LEVELS:
        return f"its negative part, 0 to -{LOBE}, has {LOBE / facts.step:.1f} levels"
    return None


def _outliers(case: Case, facts: LayerFacts) -> str | None:
    return f"0.1 % of the values stretch the range {facts.tail:.1f} times" if facts.tail >= TAIL else None


def _unused(case: Case, facts: LayerFacts) -> str | None:
    low, high = min(0.0, facts.observed[0]), max(0.0, facts.observed[1])
    if facts.node.attrs.get("clamp") == GATE or facts.node.op is Op.SIGMOID or high == low:
        return None  # these ranges are fixed
    width = span(facts.grid) / (high - low)
    return f"its range is {width:.1f} times as wide as values need" if width >= UNUSED else None


def _se_gate(case: Case, facts: LayerFacts) -> str | None:
    return (
        "a gate scales whole channels: its error is the same everywhere in them" * (facts.name in case.gating) or None
    )


def _first(case: Case, facts: LayerFacts) -> str | None:
    return "it reads the picture itself" if facts.name == case.ends[0] else None


def _last(case: Case, facts: LayerFacts) -> str | None:
    return "its output is the answer" if facts.name == case.ends[1] else None


def _is_vector(node: Node) -> bool:
    return len(node.shape) == 3 and node.shape[1:] == (1, 1)


RULES: tuple[tuple[Cause, Callable[[Case, LayerFacts], str | None]], ...] = (
    (Cause.BIAS_SHIFT, _bias_shift),
    (Cause.UNFUSED_BN, _unfused_bn),
    (Cause.BLOWN_CHANNEL, _blown_channel),
    (Cause.PREPROCESSING, _preprocessing),
    (Cause.FEW_IMAGES, _too_few),
    (Cause.SATURATED, _saturated),
    (Cause.DEPTHWISE, _depthwise),
    (Cause.RESIDUAL, _residual),
    (Cause.HARD_SWISH, _hard_swish),
    (Cause.OUTLIERS, _outliers),
    (Cause.UNUSED, _unused),
    (Cause.SE_GATE, _se_gate),
    (Cause.FIRST, _first),
    (Cause.LAST, _last),
)
