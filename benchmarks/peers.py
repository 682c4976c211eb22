"""What other tools make of the same float network: ``quantize_static``, ai-edge-quantizer and NNCF.

    python benchmarks/peers.py --model mobilenet_v2 --to FOLDER [--only onnx|tflite|nncf]

Needs ``onnxscript`` for the first, ``litert-torch`` and ``ai-edge-quantizer`` for the second, ``nncf`` and ``openvino``
for the third; an environment of their own does (with edgecnn's dependencies and this checkout on PYTHONPATH). Writes
peer.onnx, peer_int8.onnx, peer.tflite, peer_int8.tflite, nncf_int8.onnx and nncf_int8.xml (of peer.onnx, which has to
be there).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from subjects import network, normalized, pictures
from torch import nn

CALIBRATION = 16


def examples() -> Iterator[np.ndarray]:
    """Calibration inputs (1, 3, 224, 224) float32."""
    for image in pictures(CALIBRATION, seed=100):
        yield normalized(image[None]).numpy()


def onnx_peer(model: nn.Module, folder: Path) -> None:
    """torch.onnx.export, then quantize_static: QDQ, per channel, uint8 activations, after its own pre-processing."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batch = ({0: torch.export.Dim("batch")},)
    example = torch.zeros(1, 3, 224, 224)
    torch.onnx.export(model, (example,), folder / "peer.onnx", dynamo=True, external_data=False, dynamic_shapes=batch)
    quant_pre_process(folder / "peer.onnx", folder / "peer_prepared.onnx")

    import onnx

    name = onnx.load(folder / "peer_prepared.onnx").graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = examples()

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self.rest, None)
            return None if found is None else {name: found}

    quantize_static(
        folder / "peer_prepared.onnx",
        folder / "peer_int8.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def tflite_peer(model: nn.Module, folder: Path) -> None:
    """litert-torch (channels last), then ai-edge-quantizer's static_wi8_ai8."""
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    converted = litert_torch.convert(litert_torch.to_channel_last_io(model, args=[0]), (torch.zeros(1, 224, 224, 3),))
    converted.export(str(folder / "peer.tflite"))
    signatures = Interpreter(model_path=str(folder / "peer.tflite")).get_signature_list()
    key = next(iter(signatures))
    name = signatures[key]["inputs"][0]
    worker = quantizer.Quantizer(str(folder / "peer.tflite"))
    worker.load_quantization_recipe(recipe.static_wi8_ai8())
    ranges = worker.calibrate({key: [{name: each.transpose(0, 2, 3, 1)} for each in examples()]})
    (folder / "peer_int8.tflite").unlink(missing_ok=True)
    worker.quantize(ranges).export_model(str(folder / "peer_int8.tflite"))


def nncf_peer(folder: Path) -> None:
    """NNCF with its defaults (fast bias correction), as ONNX and as OpenVINO's own format, of the exported network."""
    import nncf
    import onnx
    import openvino

    model = onnx.load(folder / "peer.onnx")
    name = model.graph.input[0].name
    calibration = nncf.Dataset(list(examples()), lambda image: {name: image})
    onnx.save(nncf.quantize(model, calibration, subset_size=CALIBRATION), folder / "nncf_int8.onnx")
    quantized = nncf.quantize(openvino.convert_model(folder / "peer.onnx"), calibration, subset_size=CALIBRATION)
    openvino.save_model(quantized, folder / "nncf_int8.xml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--only", choices=("onnx", "tflite", "nncf"))
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    model = network(args.model)
    if args.only in (None, "onnx"):
        onnx_peer(model, args.to)
    if args.only in (None, "tflite"):
        tflite_peer(model, args.to)
    if args.only in (None, "nncf"):
        nncf_peer(args.to)


if __name__ == "__main__":
    main()
