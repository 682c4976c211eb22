"""The functions of ``edgecnn.api`` do what the verbs do."""

from __future__ import annotations

from pathlib import Path

from edgecnn import api
from edgecnn.spec import Status


def test_from_digits_to_rows(tmp_path: Path) -> None:
    run = tmp_path / "run"
    net = {"model": "resnet8", "image_size": 32, "width": 0.25, "epochs": 1, "batch_size": 64, "lr": 0.05, "threads": 1}
    bundle = api.train("digits", run, **net)
    assert bundle.path == run / "float"
    small = api.compress(run, quantize="int8")
    assert small.manifest.precision == "int8"
    files = api.export(small.path, ["tflite"])
    assert [each.file.name for each in files] == ["model.tflite"]
    assert all(row.status is Status.OK for row in api.verify(small.path))
    found = api.evaluate(files[0].file, data="digits")
    assert found.accuracy.top1.n == small.manifest.figures["test_images"]
    assert abs(found.accuracy.top1.value - small.manifest.figures["test_top1"]) < 0.02
