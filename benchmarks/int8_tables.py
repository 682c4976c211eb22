"""README's tables of what int8 loses, by quantizer, and of what it gives, by runtime: from the results of
``int8_accuracy.py`` and ``int8_runtimes.py``. ``tables.py`` writes them.
"""

from __future__ import annotations

import json
from typing import Any

from figures import RESULTS

QUANTIZERS = {
    "edgecnn": "edgecnn",
    "edgecnn_plain": "edgecnn, minimum and maximum only",
    "edgecnn_qat": "edgecnn, `--qat`",
    "ort_minmax": "`quantize_static`, min-max",
    "ort_entropy": "`quantize_static`, entropy",
    "ort_percentile": "`quantize_static`, percentile",
    "aeq": "ai-edge-quantizer, moving average",
    "aeq_minmax": "ai-edge-quantizer, min-max",
    "nncf_fast": "NNCF, fast bias correction",
    "nncf_full": "NNCF, full bias correction",
    "nncf_full_mixed": "NNCF, full, preset mixed",
    "pt2e": "PT2E, litert-torch's quantizer (rounds before ReLU6)",
    "pt2e_x86": "PT2E, x86 (sums, pooling in float)",
}
INT8_SUBJECTS = {
    "lite0": "EfficientNet-Lite0",
    "lite1": "EfficientNet-Lite1",
    "mcunet": "MCUNet",
    "resnet20": "ResNet-20",
    "cifar10_v2": "CIFAR-10 MobileNetV2",
    "cifar10_v3": "CIFAR-10 MobileNetV3-small",
    "flowers5_lite0": "flowers, Lite0",
}


def int8_table(figures: dict[str, Any]) -> list[str]:
    """How far int8 is from float and what it loses, by quantizer and network; a dash where a tool was not run."""
    files = {subject: RESULTS / f"int8_{subject}.json" for subject in INT8_SUBJECTS}
    found = {
        subject: json.loads(file.read_text())["result"]["tools"] for subject, file in files.items() if file.is_file()
    }
    head = [" | ".join(INT8_SUBJECTS[subject] for subject in found) + " |", "|---" * (1 + len(found)) + "|"]
    rows = []
    for title, cell in (("mean KL, 0.001 nats", divergence_cell), ("points of top-1 lost", lost_cell)):
        rows += [f"| {title} | {head[0]}", head[1]]
        for tool, name in QUANTIZERS.items():
            cells = [cell(tools[tool]) if tool in tools else "–" for tools in found.values()]
            rows.append(f"| {name} | " + " | ".join(cells) + " |")
        rows.append("")
    return rows[:-1]


def divergence_cell(row: dict[str, Any]) -> str:
    """A tool's mean KL divergence on one network, with its interval."""
    kl = row["kl_nats"]
    return f"{1e3 * kl['value']:.2f} ({1e3 * kl['low']:.2f}–{1e3 * kl['high']:.2f})"


def lost_cell(row: dict[str, Any]) -> str:
    """What a tool loses on one network, with the interval of the paired difference."""
    lost = row["drop_points"]
    return f"{lost['value']:.2f} ({lost['low']:.2f} to {lost['high']:.2f})"


RUNTIME_TITLES = {
    "torch": "the graph in torch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino_int8": "OpenVINO",
    "litert": "LiteRT",
    "tflm": "TFLite Micro",
    "executorch": "ExecuTorch, XNNPACK",
}
RUNTIME_SUBJECTS = {
    **INT8_SUBJECTS,
    "cifar10_v2": "MobileNetV2, CIFAR-10",
    "cifar10_v3": "MobileNetV3, CIFAR-10",
    "flowers5_lite0": "EfficientNet-Lite0, flowers",
}


def runtimes_table(figures: dict[str, Any]) -> list[str]:
    """One int8 graph in every runtime; a dash where a file was not run."""
    files = {name: RESULTS / f"int8_runtimes_{name}.json" for name in RUNTIME_SUBJECTS}
    found = {name: json.loads(file.read_text())["result"]["runtimes"] for name, file in files.items() if file.is_file()}
    rows = [
        "| network | runtime | pictures | agreement % | of them near ties | steps | KL, 0.001 nats |",
        "|---" * 7 + "|",
    ]
    for name, runtimes in found.items():
        for runtime, row in runtimes.items():
            agreement, kl = row["agreement"], row["kl_nats"]
            differing = round((1 - agreement["value"]) * agreement["n"])
            cells = (
                RUNTIME_SUBJECTS[name],
                RUNTIME_TITLES[runtime] + (", numbers made for it" if "tried" in row else ""),
                f"{agreement['n']:,}",
                *(
                    ("–",) * 3
                    if runtime == "torch"
                    else (
                        " ".join((f"{100 * agreement['value']:.2f}", span(agreement, 100, 1))),
                        f"{row['near_ties']} of {differing}" if differing and row["max_steps"] is not None else "–",
                        "–" if row["max_steps"] is None else f"{row['max_steps']:.0f}",
                    )
                ),
                " ".join((f"{1e3 * kl['value']:.2f}", span(kl, 1e3, 2))),
            )
            rows.append("| " + " | ".join(cells) + " |")
    return rows


def span(entry: dict[str, Any], scale: float, digits: int) -> str:
    """The interval of an entry, in brackets."""
    return f"({entry['low'] * scale:.{digits}f}–{entry['high'] * scale:.{digits}f})"
