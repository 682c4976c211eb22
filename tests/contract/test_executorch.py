"""ExecuTorch's programs against the interpreter; looking inside is not possible, so the logits must do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from handmade import GRAPHS, Maker, pictures, quantized

from edgecnn import catalog
from edgecnn.errors import MissingPackageError
from edgecnn.export.executorch import META_PREFIX, render
from edgecnn.graph.interpret import run
from edgecnn.runtimes.session import open_session
from edgecnn.spec import Runtime

HERE = catalog.engines()[Runtime.EXECUTORCH]
QUICK = ("residual", "conv_odd_clamp", "hard_swish")
"""A file takes seconds to write; the others are run with -m slow."""
pytestmark = pytest.mark.filterwarnings("ignore")  # its compiler uses much that other libraries have deprecated
needs_executorch = pytest.mark.skipif(HERE != "ready", reason=f"executorch is {HERE}")


@needs_executorch
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in GRAPHS]
)
def test_an_int8_program_gives_the_interpreters_integers(name: str, tmp_path: Path) -> None:
    graph = quantized(GRAPHS[name](Maker((9, 11))))
    images, step = pictures(graph, 12), graph.qparams[graph.output].scale
    render(graph, tmp_path / "model.pte", meta={})
    with open_session(Runtime.EXECUTORCH, tmp_path / "model.pte") as session:
        steps = np.rint((session.infer(images) - run(graph, images).numpy()) / step)
    assert np.abs(steps).max() <= 1 and np.count_nonzero(steps) <= 1


@needs_executorch
def test_a_program_explains_itself_and_is_one_delegate_besides_the_pixels(tmp_path: Path) -> None:
    from executorch.runtime import Runtime as Engine

    graph = GRAPHS["squeeze_excite"](Maker((9, 11)))
    render(graph, tmp_path / "model.pte", meta={"labels": '["a", "b"]'})
    program = Engine.get().load_program(tmp_path / "model.pte")
    assert program.load_method(f"{META_PREFIX}labels").execute([])[0] == '["a", "b"]'
    images = pictures(graph, 3)
    with open_session(Runtime.EXECUTORCH, tmp_path / "model.pte") as session:
        assert (session.input.dtype, session.input.height, session.input.width) == ("uint8", 9, 11)
        np.testing.assert_allclose(session.infer(images), run(graph, images).numpy(), atol=1e-4)


@pytest.mark.skipif(HERE == "ready", reason="executorch is installed")
def test_without_executorch_the_way_to_install_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingPackageError, match=r"pip install 'edgecnn\[executorch\]'"):
        render(GRAPHS["residual"](Maker((9, 11))), tmp_path / "model.pte", meta={})
    assert not list(tmp_path.iterdir())
