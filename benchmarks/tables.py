"""Write README's tables from ``results/figures.json``, between ``<!-- figures:NAME -->`` and ``<!-- /figures -->``.

python benchmarks/tables.py            # rewrite README.md
python benchmarks/tables.py --check    # exit 1 when README does not say what the figures say
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import RESULTS, load
from int8_tables import int8_table, runtimes_table

README = Path(__file__).parent.parent / "README.md"
STAGES = ("float", "int8", "pruned30", "pruned30_int8")


def shown(figures: dict[str, Any], name: str, form: str = ".1f", scale: float = 1.0) -> str:
    """A figure with its interval, or a dash when nobody measured it."""
    entry = figures.get(name)
    if entry is None:
        return "–"
    value = f"{entry['value'] * scale:{form}}"
    if entry["low"] is None:
        return value
    return f"{value} ({entry['low'] * scale:{form}}–{entry['high'] * scale:{form}})"


def accuracy_table(figures: dict[str, Any], prefix: str) -> list[str]:
    """Stages of one run: top-1, agreement, size and latency in both runtimes."""
    rows = [
        "| stage | M MACs | top-1 torch | ONNX Runtime | LiteRT | kB ONNX / TFLite | ms ONNX Runtime / LiteRT |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage in STAGES:
        base = f"{prefix}_{stage}"
        if f"{base}_top1" not in figures:
            continue
        sizes = " / ".join(shown(figures, f"{base}_{r}_bytes", ".0f", 1e-3) for r in ("onnxruntime", "litert"))
        times = " / ".join(shown(figures, f"{base}_{r}_ms", ".2f") for r in ("onnxruntime", "litert"))
        cells = (
            stage.replace("pruned30", "pruned 30 %").replace("_", " + "),
            shown(figures, f"{base}_macs", ".1f", 1e-6),
            *(shown(figures, f"{base}{r}_top1", ".2f") for r in ("", "_onnxruntime", "_litert")),
            sizes,
            times,
        )
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def ratio_table(figures: dict[str, Any]) -> list[str]:
    """Latency ratios at 224 px, one thread."""
    rows = ["| int8 file of edgecnn against | MobileNetV2 | MobileNetV3-small |", "|---|---|---|"]
    for title, name in (
        ("its own fp32 file, ONNX Runtime", "int8_over_fp32_onnxruntime"),
        ("`quantize_static`'s int8 file, ONNX Runtime", "int8_over_quantize_static"),
        ("its own fp32 file, LiteRT", "int8_over_fp32_litert"),
        ("ai-edge-quantizer's int8 file, LiteRT", "int8_over_ai_edge_quantizer"),
    ):
        cells = [shown(figures, f"{prefix}_{name}", ".2f") for prefix in ("v2_224", "v3s_224")]
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    return rows


SPEED_NETS = {"v2": "MobileNetV2", "v3s": "MobileNetV3-small", "lite0": "EfficientNet-Lite0"}
SPEED_RUNTIMES = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT", "openvino": "OpenVINO"}


def speed_table(figures: dict[str, Any]) -> list[str]:
    """int8 over float and over the best peer's int8, by runtime and network."""
    rows = [
        "| int8 file of edgecnn over | " + " | ".join(SPEED_NETS.values()) + " |",
        "|---" * (1 + len(SPEED_NETS)) + "|",
    ]
    for what, title in (("fp32", "its own fp32 file"), ("best_peer", "the fastest peer's int8 file")):
        for runtime, runtime_title in SPEED_RUNTIMES.items():
            names = {net: f"int8_over_{what}_{runtime}_{net}" for net in SPEED_NETS}
            made = {net: name for net, name in names.items() if f"all_{name}" in figures}
            cells = [shown(figures, f"all_{name}" if net in made else name, ".2f") for net, name in names.items()]
            rows.append(f"| {title}, {runtime_title} | {' | '.join(cells)} |")
            if made:
                cells = [shown(figures, made.get(net, ""), ".2f") for net in SPEED_NETS]
                rows.append(f"| the same, with numbers made for {runtime_title} | {' | '.join(cells)} |")
    return rows


def quickstart_table(figures: dict[str, Any]) -> list[str]:
    """The rows that ``make quickstart`` left in its report.json."""
    rows = ["| bundle | precision | runtime | top-1 % | ms | kB | status |", "|---|---|---|---|---|---|---|"]
    result = json.loads((RESULTS / "quickstart.json").read_text())["result"]
    for row in result["rows"]:
        cells = (
            row["bundle"],
            row["precision"],
            row["runtime"],
            f"{100 * row['top1']:.2f} ({100 * row['top1_low']:.1f}–{100 * row['top1_high']:.1f})",
            f"{row['latency_ms']:.3g} ({row['latency_low']:.3g}–{row['latency_high']:.3g})",
            f"{row['size_bytes'] / 1000:.0f}",
            row["status"],
        )
        rows.append("| " + " | ".join(cells) + " |")
    minutes = f"{figures['quickstart_minutes']['value']:.1f}"
    return [*rows, "", f"{minutes} minutes from the clone to the report, the installation of the environment included."]


def training_table(figures: dict[str, Any]) -> list[str]:
    """What the training recipes gave."""
    rows = ["| network | recipe | test top-1 % | minutes |", "|---|---|---|---|"]
    for title, recipe, name, minutes in (
        ("dense teacher, 208.5 M MACs", "cifar10-distilled", "cifar10_teacher_top1", "cifar10_teacher_minutes"),
        ("MobileNetV4-style, 14.7 M MACs", "cifar10-distilled", "cifar10_mobile_top1", "cifar10_mobile_minutes"),
        ("97 kB int8 TFLite file, in LiteRT", "cifar10-98kb", "record98k_int8_top1", "cifar10_small_minutes"),
        (
            "EfficientNet-Lite0's features, five flowers",
            "efficientnet-lite0-features",
            "flowers5_feature_top1",
            "flowers5_feature_minutes",
        ),
        (
            "EfficientNet-Lite0 in two stages, five flowers",
            "efficientnet-lite0-twostage",
            "flowers5_twostage_top1",
            "flowers5_twostage_minutes",
        ),
    ):
        cells = (shown(figures, name, ".2f"), shown(figures, minutes, ".1f"))
        rows.append(f"| {title} | `{recipe}` | {' | '.join(cells)} |")
    return rows


SCHEMES = {
    "float": "float32",
    "fp16": "`fp16`",
    "int8-weights": "`int8-weights`",
    "int8-dynamic": "`int8-dynamic`",
    "int4-weights": "`int4-weights`, groups of 32",
    "int4-rows": "`int4-weights`, whole rows",
    "int8": "`int8`",
}


def schemes_table(figures: dict[str, Any]) -> list[str]:
    """What each scheme makes of a network's files; a dash where there is no such file."""
    rows = ["| scheme | kB ONNX / TFLite | time over float32's, ONNX Runtime | LiteRT |", "|---|---|---|---|"]
    for bundle, title in SCHEMES.items():
        keys = [f"scheme_{bundle}_{runtime}" for runtime in ("onnxruntime", "litert")]
        sizes = " / ".join(shown(figures, f"{key}_bytes", ".0f", 1e-3) for key in keys)
        times = ["1", "1"] if bundle == "float" else [shown(figures, f"{key}_over_fp32", ".2f") for key in keys]
        rows.append(f"| {title} | {sizes} | {' | '.join(times)} |")
    return rows


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "quickstart": quickstart_table,
    "cifar10_v2": lambda figures: accuracy_table(figures, "cifar10_v2"),
    "cifar10_v3": lambda figures: accuracy_table(figures, "cifar10_v3"),
    "flowers5_lite0": lambda figures: accuracy_table(figures, "flowers5_lite0"),
    "latency_224": ratio_table,
    "schemes": schemes_table,
    "int8_speed": speed_table,
    "training": training_table,
    "int8": int8_table,
    "int8_runtimes": runtimes_table,
}


def rendered(text: str, figures: dict[str, Any]) -> str:
    """The README with every marked table made anew."""

    def table(match: re.Match[str]) -> str:
        rows = TABLES[match[1]](figures)
        return f"<!-- figures:{match[1]} -->\n" + "\n".join(rows) + "\n<!-- /figures -->"

    return re.sub(r"<!-- figures:(\w+) -->.*?<!-- /figures -->", table, text, flags=re.DOTALL)


def main() -> None:
    text = README.read_text()
    wanted = rendered(text, load())
    if "--check" in sys.argv:
        sys.exit(
            0 if text == wanted else "README.md's tables differ from benchmarks/results/figures.json: run tables.py"
        )
    README.write_text(wanted)


if __name__ == "__main__":
    main()
