"""Where an int8 bundle loses accuracy and why: ``compress.diagnose`` on the bundle's own pictures, as text and page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.bundle import Bundle
from edgecnn.compress.causes import Reason
from edgecnn.compress.diagnose import Diagnosis, Layer, Score, diagnose
from edgecnn.compress.layer_facts import LayerFacts, bin_edges
from edgecnn.data.items import ImageSet
from edgecnn.data.stream import readable
from edgecnn.data.tensors import load_items, load_split
from edgecnn.errors import UsageError
from edgecnn.pipeline.context import Context, data_of, is_streamed
from edgecnn.pipeline.loading import float_twin, is_quantized, load_graph, preprocess_of
from edgecnn.report import wording
from edgecnn.report.diagnosis_page import DiagnosisPage, LossRow, TensorHistogram, write_diagnosis_page
from edgecnn.spec import Precision, Split

CALIBRATION = "calibration.txt"
MOST_CALIBRATION = 512  # of the calibration pictures so many tell where ranges come from
SHOWN_HISTOGRAMS = 6
TOLD = 3  # layers, where nobody asked
BARS = 96  # of a histogram, about


@dataclass(frozen=True)
class Explanation:
    """A bundle's diagnosis."""

    bundle: Bundle
    found: Diagnosis

    @property
    def rows(self) -> list[LossRow]:
        """The layers, the worst first, as plain values."""
        return [_row(layer) for layer in self.found.layers]

    @property
    def headline(self) -> str:
        """The whole network in one line."""
        whole = self.found.whole
        return (
            f"{self.bundle.path}: answers {whole.db:.1f} dB over their noise, {whole.agreement:.1%} equal to float's,"
            f" on {wording.count(self.found.images, 'validation picture')}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything but histograms as plain JSON values."""
        layers = [_layer_dict(layer) for layer in self.found.layers]
        findings = [_reason_dict(reason) for reason in self.found.findings]
        facts = {"path": str(self.bundle.path), "images": self.found.images, "whole": vars(self.found.whole)}
        return {**facts, "findings": findings, "layers": layers, "order": list(self.found.order)}


def explain(context: Context, bundle: Bundle, images: int = 64) -> Explanation:
    """Diagnose an int8 bundle on so many validation pictures: what is changed because of it must not be chosen by test.

    Raises ``UsageError`` for a float bundle, ``BundleError`` where the float bundle is gone.
    """
    if bundle.manifest.precision != Precision.INT8:
        kind = bundle.manifest.precision if is_quantized(bundle) else "a float bundle"
        raise UsageError(
            f"{bundle.path} is {kind}: it has no int8 numbers to explain",
            hint="quantize its float bundle: edgecnn compress FLOAT --quantize int8; then give the int8 bundle",
        )
    data, config = data_of(bundle, context.data), bundle.manifest.config
    trained = bundle.manifest.figures.get("rung") == "trained"
    found = diagnose(
        float_twin(bundle),
        load_graph(bundle),
        load_split(data, Split.VAL, preprocess_of(bundle), limit=images, seed=1).images,
        calibration=_calibration(bundle, data),
        calibration_count=int(bundle.manifest.figures["calibration_images"]),
        method=None if trained else config["calibration_method"],
        task=bundle.task,
        tell=context.tell,
    )
    return Explanation(bundle, found)


def write_page(explanation: Explanation, path: Path) -> None:
    """Write the diagnosis as one HTML page. Raises ``OSError`` if it cannot be written."""
    title = "/".join(explanation.bundle.path.resolve().parts[-2:])
    write_diagnosis_page(path, page_of(explanation.found, title))


def tell_why(context: Context, bundle: Bundle, page: Path) -> None:
    """Diagnose a bundle that lost more than it may: the worst layers are told, the whole is written as a page."""
    found = explain(context, bundle)
    context.tell(found.headline)
    for row in found.rows[:TOLD]:
        context.tell(f"{row.name}: {row.cause}: {row.evidence}; {row.repair}")
    write_page(found, page)
    context.tell(str(page))


def page_of(found: Diagnosis, name: str) -> DiagnosisPage:
    """All that the page of a diagnosis shows."""
    whole, worst = found.whole, found.layers[0]
    return DiagnosisPage(
        title=f"Diagnosis: {name}",
        subtitle=f"The int8 network against its float network, on {wording.count(found.images, 'picture')}.",
        figures=[
            ("Answers", f"{whole.db:.1f} dB", "signal to quantization noise of the logits"),
            ("Equal answers", wording.percent(whole.agreement), "of int8 and float"),
            ("Worst layer", worst.reasons[0].cause, worst.facts.name),
        ],
        findings=[(each.cause, each.evidence, each.repair) for each in found.findings],
        layers=[_row(layer) for layer in found.layers],
        order=found.order,
        histograms=[_histogram(layer) for layer in found.layers[:SHOWN_HISTOGRAMS]],
    )


def _calibration(bundle: Bundle, data: ImageSet) -> NDArray[np.uint8] | None:
    """The pictures that the ranges were decided on, spread evenly where they are many; None if one is not there."""
    ids = bundle.file(CALIBRATION).read_text().splitlines()
    by_id = {item.id: item for items in data.splits.values() for item in items}
    if not by_id.keys() >= set(ids):
        return None
    items = tuple(by_id[name] for name in ids[:: -(-len(ids) // MOST_CALIBRATION)])
    return load_items(data, readable(data, items) if is_streamed(bundle) else items, preprocess_of(bundle)).images


def _row(layer: Layer) -> LossRow:
    facts, reason = layer.facts, layer.reasons[0]
    return LossRow(
        name=facts.name,
        kind=f"{facts.node.op} {' x '.join(map(str, facts.node.shape))}",
        weights_db=facts.weights_db,
        activation_db=facts.activation_db,
        accumulated_db=facts.accumulated_db,
        only_db=None if layer.only is None else layer.only.db,
        without_db=None if layer.without is None else layer.without.db,
        cause=reason.cause,
        evidence=reason.evidence,
        repair=reason.repair,
    )


def _histogram(layer: Layer) -> TensorHistogram:
    """The tensor's counts in about ``BARS`` bars over the values that occur."""
    facts = layer.facts
    counts, width = facts.histogram
    used = np.flatnonzero(counts)
    first, last = int(used[0]), int(used[-1]) + 1
    each = max(1, -(-(last - first) // BARS))
    starts = np.arange(first, last, each)
    edges = bin_edges(width)
    return TensorHistogram(
        name=facts.name,
        counts=np.add.reduceat(counts[first:last], starts - first).tolist(),
        edges=[*edges[starts].tolist(), float(edges[last])],
        grid=facts.grid,
        words=f"{layer.reasons[0].cause}: {_levels_used(facts)}",
    )


def _levels_used(facts: LayerFacts) -> str:
    alive = facts.peaks[facts.peaks > 0]
    steps = round(float(np.median(alive)) / facts.step) if len(alive) else 0
    dead = f"; {facts.dead} of {len(facts.peaks)} channels are always 0" if facts.dead else ""
    return f"half of its channels stay within {wording.count(steps, 'level')} of 0{dead}"


def _layer_dict(layer: Layer) -> dict[str, Any]:
    facts = layer.facts
    keys = ("weights_db", "activation_db", "own_db", "accumulated_db", "observed", "bulk", "grid", "step")
    ratios = ("tail", "peak_ratio", "dead", "saturated", "excess", "bias_shift")
    return {
        "name": facts.name,
        "op": facts.node.op,
        **{key: getattr(facts, key) for key in (*keys, *ratios)},
        "only": _score_dict(layer.only),
        "without": _score_dict(layer.without),
        "reasons": [_reason_dict(reason) for reason in layer.reasons],
    }


def _score_dict(score: Score | None) -> dict[str, float] | None:
    return None if score is None else vars(score)


def _reason_dict(reason: Reason) -> dict[str, str]:
    return {"cause": reason.cause, "evidence": reason.evidence, "repair": reason.repair}
