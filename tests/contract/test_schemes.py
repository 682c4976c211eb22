"""Weights in fewer bits: the formats compute what the interpreter does, in files that say what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from handmade import GRAPHS, Maker, pictures
from test_formats import BATCH, compare_formats, infer

from edgecnn import catalog, schemes
from edgecnn.compress.weight_only import narrowed
from edgecnn.errors import ModelError
from edgecnn.export.foreign import precision_of
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph
from edgecnn.graph.weights import is_int4
from edgecnn.measure.parity import sqnr_db
from edgecnn.spec import Format, Precision, Runtime, Scheme

SIZE = (9, 11)
REAL = (Scheme.FP16, Scheme.INT8_WEIGHTS, Scheme.INT4_WEIGHTS)
"""Computed in float32: the same numbers in every runtime."""
WEIGHTED = [name for name in GRAPHS if name.startswith(("conv_", "stem_"))]
WEIGHTED += ["linear_relu6", "flatten", "flatten_read_by_others", "squeeze_excite", "residual"]
FEW = ["conv_depthwise", "conv_grouped", "stem_torch", "flatten", "squeeze_excite"]
DYNAMIC_DB = 40.0  # a number that falls on the other side of a half is one step off, and moves all that reads it


@pytest.mark.parametrize("name", WEIGHTED)
def test_4_bit_rows_are_computed_alike(name: str, tmp_path: Path) -> None:
    compare_formats(narrowed(GRAPHS[name](Maker(SIZE)), Scheme.INT4_WEIGHTS), tmp_path)


@pytest.mark.parametrize("scheme", [Scheme.FP16, Scheme.INT8_WEIGHTS])
@pytest.mark.parametrize("name", FEW)
def test_other_weights_are_computed_alike(name: str, scheme: Scheme, tmp_path: Path) -> None:
    compare_formats(narrowed(GRAPHS[name](Maker(SIZE)), scheme), tmp_path)


@pytest.mark.parametrize("name", FEW)
def test_groups_of_4_bit_weights_are_computed_alike_in_onnx(name: str, tmp_path: Path) -> None:
    graph = narrowed(GRAPHS[name](Maker(SIZE)), Scheme.INT4_WEIGHTS, 16)
    groups = [graph.weight_scales[node.name].shape[1] for node in graph.nodes if is_int4(graph, node.name)]
    assert max(groups) > 1
    images, path = pictures(graph, BATCH), tmp_path / "model.onnx"
    catalog.load(catalog.FORMATS[Format.ONNX].target)(graph, path, meta={})
    wanted = run(graph, images).numpy()
    assert abs(infer(path, images, BATCH) - wanted).max() <= 1e-5 * abs(wanted).max()


@pytest.mark.parametrize("name", WEIGHTED)
def test_what_is_quantized_while_it_runs_is_so_in_the_simulation(name: str, tmp_path: Path) -> None:
    graph = narrowed(GRAPHS[name](Maker(SIZE)), Scheme.INT8_DYNAMIC)
    images, path = pictures(graph, BATCH), tmp_path / "model.tflite"
    row = catalog.FORMATS[Format.TFLITE]
    catalog.load(row.target)(graph, path, meta={})
    wanted = {key: value.numpy() for key, value in run(graph, images, keep=True).items()}
    found = catalog.load(row.trace)(path, images)
    assert set(found) == set(wanted)
    assert all(sqnr_db(wanted[key], found[key]) > DYNAMIC_DB for key in wanted)
    assert sqnr_db(infer(path, images, 1), infer(path, images, BATCH)) > 100  # each picture by itself


@pytest.mark.parametrize("scheme", [scheme for scheme, row in schemes.SCHEMES.items() if not row.calibrated])
def test_a_format_that_is_refused_cannot_be_written_either(scheme: Scheme, tmp_path: Path) -> None:
    for group in (0, 16):
        graph = narrowed(GRAPHS["flatten"](Maker(SIZE)), scheme, group)
        for format in catalog.DEFAULT_FORMATS:
            row = catalog.FORMATS[format]
            path = tmp_path / f"{group}{row.extension}"
            if schemes.refusal(scheme, format, group):
                with pytest.raises(ModelError):
                    catalog.load(row.target)(graph, path, meta={})
            else:
                catalog.load(row.target)(graph, path, meta={})
                assert precision_of(path) == Precision(scheme.value)


def test_files_are_as_much_smaller_as_their_weights(tmp_path: Path) -> None:
    m = Maker(SIZE)
    graph: Graph = m.finish(m.linear(m.linear(m.flatten(m.conv(m.input, 8)), 128), 5))
    for format in catalog.DEFAULT_FORMATS:
        row = catalog.FORMATS[format]
        sizes = {}
        for scheme in (None, *REAL):
            made, path = graph if scheme is None else narrowed(graph, scheme), tmp_path / f"{scheme}{row.extension}"
            catalog.load(row.target)(made, path, meta={})
            sizes[scheme] = path.stat().st_size
        whole = sizes[None]
        assert sizes[Scheme.FP16] < 0.52 * whole, format
        assert sizes[Scheme.INT8_WEIGHTS] < 0.28 * whole, format
        assert sizes[Scheme.INT4_WEIGHTS] < 0.16 * whole, format


def test_the_runtimes_that_are_refused_are_known() -> None:
    for row in schemes.SCHEMES.values():
        assert all(isinstance(where, Format | Runtime) for where in (*row.refused, *row.grouped))
        assert all(reason for reason in (*row.refused.values(), *row.grouped.values()))
