"""What each scheme of precision is, and which files and engines can have it.

A pair that cannot be is refused before any work starts, with the reason that stands here. Adding a scheme is a word in
``spec.Scheme`` and ``spec.Precision`` and a row below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgecnn.errors import UsageError
from edgecnn.spec import Format, Runtime, Scheme


@dataclass(frozen=True)
class SchemeRow:
    """A scheme in words, and what cannot have it: ``refused`` maps a format or a runtime to the reason.

    ``grouped`` are reasons that hold only where neighbouring weights share a scale (``weight_group`` above 0).
    ``calibrated``: it needs ranges of activations, so pictures to calibrate with.
    """

    about: str
    calibrated: bool = False
    refused: Mapping[Format | Runtime, str] = field(default_factory=dict)
    grouped: Mapping[Format | Runtime, str] = field(default_factory=dict)


NO_PROGRAM: dict[Format | Runtime, str] = {Format.PTE: "edgecnn writes ExecuTorch programs in float32 and int8 only"}

SCHEMES: dict[Scheme, SchemeRow] = {
    Scheme.INT8: SchemeRow("int8 weights and activations, integers throughout", calibrated=True),
    Scheme.MIXED: SchemeRow(
        "int8, but for the layers that lose most by it, which stay float32", calibrated=True, refused=NO_PROGRAM
    ),
    Scheme.INT16X8: SchemeRow("int8 weights and 16-bit activations", calibrated=True, refused=NO_PROGRAM),
    Scheme.INT8_WEIGHTS: SchemeRow(
        "int8 weights, computed in float32",
        refused=NO_PROGRAM
        | {Runtime.TFLM: "its DEQUANTIZE reads one scale for all channels, and the answers are wrong"},
    ),
    Scheme.INT8_DYNAMIC: SchemeRow(
        "int8 weights, activations quantized while it runs",
        refused=NO_PROGRAM
        | {
            Format.ONNX: "DynamicQuantizeLinear takes one range over all pictures of a batch, so that the answer to a "
            "picture would depend on those beside it",
            Runtime.TFLM: "it has no hybrid kernels",
        },
    ),
    Scheme.INT4_WEIGHTS: SchemeRow(
        "4-bit weights, computed in float32",
        refused=NO_PROGRAM | {Runtime.TFLM: "its DEQUANTIZE takes no 4-bit tensors"},
        grouped={Format.TFLITE: "its 4-bit weights have one scale per output channel"},
    ),
    Scheme.FP16: SchemeRow(
        "float16 weights", refused=NO_PROGRAM | {Runtime.TFLM: "its DEQUANTIZE takes no float16 tensors"}
    ),
}


def refusal(scheme: Scheme, where: Format | Runtime, weight_group: int = 0) -> str:
    """Why a file or an engine cannot have weights of this scheme; empty where it can."""
    row = SCHEMES[scheme]
    reasons = {**(row.grouped if weight_group else {}), **row.refused}
    return reasons.get(where, "")


def way_out(scheme: Scheme, where: Format | Runtime, weight_group: int = 0) -> str:
    """What to do where a scheme is refused."""
    if weight_group and not refusal(scheme, where):
        return f"quantize with --set steps.0.weight_group=0 for {where}, or leave {where} out"
    if scheme is Scheme.MIXED and not refusal(Scheme.INT8, where):
        return (
            f"{where} can have int8: quantize with --integer-only, which keeps every layer in it; or leave {where} out"
        )
    able = [name for name in SCHEMES if not refusal(name, where)]
    return f"{where} can have {', '.join(able)}; or leave {where} out"


def check(scheme: Scheme, where: Format | Runtime, weight_group: int = 0, *, who: str) -> None:
    """Raise ``UsageError`` where a file or an engine cannot have ``who``, which is of this scheme."""
    if reason := refusal(scheme, where, weight_group):
        raise UsageError(
            f"{who} is {scheme}, which {where} cannot have: {reason}", hint=way_out(scheme, where, weight_group)
        )
