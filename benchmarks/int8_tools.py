"""Every int8 quantizer in one shape: ``tool(subject, calibration, folder, cost) -> predict``.

``calibration`` (N, H, W, 3) uint8 are the same pictures for all, ``folder`` is for files, what happens inside
``with cost`` is timed, and ``predict`` gives logits (n, K) float32 for pictures (n, H, W, 3) uint8, in the runtime that
the tool writes for. Each tool takes one picture at a time to calibrate with, as its documentation shows it, and its own
defaults unless its name says otherwise.

The peers need onnxscript (ort), litert-torch and ai-edge-quantizer (aeq), nncf and openvino (nncf), torchao and
litert-torch (pt2e), each beside edgecnn's dependencies; nothing is imported before it is used.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from int8_subjects import Images, Subject, example
from numpy.typing import NDArray

from edgecnn.bundle import open_bundle
from edgecnn.compress.calibrate import calibrate
from edgecnn.compress.ptq import Quantized, plain_and_repaired
from edgecnn.compress.quantize import quantize
from edgecnn.graph.capture import capture
from edgecnn.graph.interpret import run
from edgecnn.graph.ir import Graph
from edgecnn.pipeline.loading import load_graph
from edgecnn.runtimes.worker import peak_memory_bytes, status_bytes

BATCH = 16
STRIDE = 32  # pictures whose activations ONNX Runtime's histograms hold at once; the histograms are merged
Logits = NDArray[np.float32]
Predict = Callable[[Images], Logits]


class Cost:
    """Seconds and memory of what runs inside ``with``; memory in bytes, above what the process held before."""

    seconds = 0.0
    memory_bytes = 0

    def __enter__(self) -> None:
        """Begin."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what exporting has freed would be used again without being seen
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
        self._held, self._since = status_bytes("VmRSS"), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        """End."""
        self.seconds = time.perf_counter() - self._since
        self.memory_bytes = peak_memory_bytes() - self._held


Tool = Callable[[Subject, Images, Path, Cost], Predict]


def batches(images: Images) -> Iterator[Images]:
    """The pictures in their order, 16 at a time."""
    return (images[at : at + BATCH] for at in range(0, len(images), BATCH))


def plain(graph: Graph, images: Images) -> Graph:
    """Minimum and maximum, round to nearest: Jacob et al. 2018 with weights per channel."""
    return quantize(graph, calibrate(graph, batches(images)))


def decided(graph: Graph, images: Images) -> Quantized:
    """What ``edgecnn compress --quantize int8`` does where nothing is said."""
    return plain_and_repaired(graph, lambda: batches(images))[1]


def default(graph: Graph, images: Images) -> Graph:
    """Its int8 graph."""
    return decided(graph, images).graph


def ours(
    subject: Subject, calibration: Images, folder: Path, cost: Cost, decide: Callable[[Graph, Images], Graph]
) -> Predict:
    """The int8 graph, computed in integers in torch: what its files compute too, up to ties of rounding."""
    graph = capture(subject.model, subject.preprocess.size, subject.preprocess)
    with cost:
        int8 = decide(graph, calibration)
    return lambda images: run(int8, images).numpy()


def learned(subject: Subject, calibration: Images, folder: Path, cost: Cost) -> Predict:
    """The bundle that ``edgecnn compress --quantize int8 --qat`` wrote, which chose its calibration pictures itself."""
    if subject.learned is None:
        raise SystemExit(f"{subject.name} is not a network of your own: there is nothing to train it with")
    graph = load_graph(open_bundle(subject.learned))
    return lambda images: run(graph, images).numpy()


def ort(subject: Subject, calibration: Images, folder: Path, cost: Cost, method: str) -> Predict:
    """ONNX Runtime's ``quantize_static``: QDQ, weights int8 per channel, activations uint8; pre-processed first."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    files = [folder / f"ort{stage}.onnx" for stage in ("", "_prepared", f"_{method.lower()}")]
    torch.onnx.export(
        subject.model, (example(subject),), files[0], input_names=["image"], dynamo=True, external_data=False
    )
    quant_pre_process(files[0], files[1])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.set_range(0, len(calibration))

        def __len__(self) -> int:
            return len(calibration)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.rest = iter(calibration[start_index:end_index])

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.rest, None)
            return None if image is None else {"image": subject.normalized(image[None])}

    histograms = method != "MinMax"
    with cost:
        quantize_static(
            files[1],
            files[2],
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
            extra_options={"CalibStridedMinMax": STRIDE} if histograms else {},
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums on x86 without VNNI
    session = onnxruntime.InferenceSession(files[2], options, providers=["CPUExecutionProvider"])
    return one_by_one(lambda image: session.run(None, {"image": subject.normalized(image)})[0])


def aeq(
    subject: Subject, calibration: Images, folder: Path, cost: Cost, update: str, profiler: bool = False
) -> Predict:
    """ai-edge-quantizer's static_wi8_ai8 on litert-torch's file, channels last; ranges by moving average or min-max.

    ``profiler``: its faster way to calibrate, which has ranges of its own.
    """
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import calibrator, quantizer, recipe, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    files = [folder / f"aeq{stage}.tflite" for stage in ("", f"_{update}")]
    last = litert_torch.to_channel_last_io(subject.model, args=[0])
    litert_torch.convert(last, (example(subject).permute(0, 2, 3, 1).contiguous(),)).export(str(files[0]))
    signature, description = next(iter(Interpreter(model_path=str(files[0])).get_signature_list().items()))
    name = description["inputs"][0]

    def given(image: Images) -> dict[str, Any]:
        return {name: np.ascontiguousarray(subject.normalized(image).transpose(0, 2, 3, 1))}

    with cost:
        worker = quantizer.Quantizer(str(files[0]), recipe.static_wi8_ai8())
        pictures = {signature: [given(image[None]) for image in calibration]}
        if profiler:
            mode = calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED
            ranges = worker.calibrate(pictures, num_threads=len(os.sched_getaffinity(0)), mode=mode)
        else:
            recipes = recipe_manager.RecipeManager()
            recipes.load_quantization_recipe(recipe.static_wi8_ai8())
            observed = calibrator.Calibrator(
                files[0].read_bytes(), num_threads=1, qsv_update_func=getattr(qsv_utils, f"{update}_update")
            )
            observed.calibrate(pictures, recipes)
            ranges = observed.get_model_qsvs()
        worker.quantize(ranges).export_model(str(files[1]), overwrite=True)
    runner = Interpreter(model_path=str(files[1]), num_threads=1).get_signature_runner(signature)
    (source,), (target,) = runner.get_input_details().values(), runner.get_output_details().values()

    def infer(image: Images) -> Logits:
        scale, zero_point = source["quantization"]
        numbers = np.rint(given(image)[name] / scale) + zero_point
        (answer,) = runner(**{name: np.clip(numbers, -128, 127).astype(np.int8)}).values()
        scale, zero_point = target["quantization"]
        return (answer.astype(np.float32) - zero_point) * scale

    return one_by_one(infer)


def nncf(
    subject: Subject, calibration: Images, folder: Path, cost: Cost, fast: bool, preset: str = "performance"
) -> Predict:
    """NNCF's ``quantize`` for OpenVINO, with its fast or its full bias correction."""
    import nncf as tool
    import openvino

    shape = [1, 3, subject.preprocess.size, subject.preprocess.size]
    converted = openvino.convert_model(subject.model, example_input=example(subject), input=shape)
    pictures = tool.Dataset(calibration, lambda image: subject.normalized(image[None]))
    with cost:
        int8 = tool.quantize(
            converted,
            pictures,
            subset_size=len(calibration),
            fast_bias_correction=fast,
            preset=tool.QuantizationPreset(preset),
        )
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(int8, "CPU", options)
    return one_by_one(lambda image: compiled([subject.normalized(image)])[0])


def pt2e(subject: Subject, calibration: Images, folder: Path, cost: Cost, backend: str) -> Predict:
    """PyTorch 2 export quantization (torchao), with litert-torch's quantizer or that of x86 (not every operator)."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    if backend == "litert":
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config

        quantizer: Any = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    else:
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    exported = torch.export.export(subject.model, (example(subject),)).module()
    with cost, torch.no_grad():
        prepared = prepare_pt2e(exported, quantizer)
        for image in calibration:
            prepared(torch.from_numpy(subject.normalized(image[None])))
        int8 = convert_pt2e(prepared)

    @torch.no_grad()
    def infer(image: Images) -> Logits:
        return int8(torch.from_numpy(subject.normalized(image))).numpy()

    return one_by_one(infer)


def one_by_one(infer: Predict) -> Predict:
    """For runtimes with a fixed batch of one: ``infer`` takes (1, H, W, 3)."""
    return lambda images: np.concatenate([infer(image[None]) for image in images]).astype(np.float32)


TOOLS: dict[str, Tool] = {
    "edgecnn": partial(ours, decide=default),
    "edgecnn_plain": partial(ours, decide=plain),
    "edgecnn_qat": learned,
    "ort_minmax": partial(ort, method="MinMax"),
    "ort_entropy": partial(ort, method="Entropy"),
    "ort_percentile": partial(ort, method="Percentile"),
    "aeq": partial(aeq, update="moving_average"),
    "aeq_minmax": partial(aeq, update="min_max"),
    "nncf_fast": partial(nncf, fast=True),
    "nncf_full": partial(nncf, fast=False),
    "nncf_full_mixed": partial(nncf, fast=False, preset="mixed"),
    "pt2e": partial(pt2e, backend="litert"),
    "pt2e_x86": partial(pt2e, backend="x86"),
}
PACKAGES = {
    "edgecnn": ("torch",),
    "ort": ("onnxruntime", "onnxscript"),
    "aeq": ("ai-edge-quantizer", "litert-torch", "ai-edge-litert"),
    "nncf": ("nncf", "openvino"),
    "pt2e": ("torchao", "litert-torch", "torch"),
}
