"""Name -> "module:function" plus light facts, and the only module that imports by name.

Adding a model, a format or a runtime is one file and one row here; commands, tests and the support table follow from
the row. Nothing heavy is imported until a row is loaded.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from edgecnn.errors import EdgecnnError, MissingPackageError, ModelError, UsageError
from edgecnn.spec import IO, Format, Runtime


@dataclass(frozen=True)
class Published:
    """What a paper, or its reference code, counts for so many classes: trained parameters and multiply-adds."""

    classes: int
    params: int
    macs: float


@dataclass(frozen=True)
class ModelRow:
    """A model family member: ``target(spec) -> nn.Module``; ``default_size`` is the paper's image size in pixels.

    ``published`` is at that size; ``None``: nobody published a count.
    """

    target: str
    paper: str
    default_size: int
    published: Published | None = None


@dataclass(frozen=True)
class FormatRow:
    """A file format: ``target(graph, path, meta=...)`` renders it, ``trace(path, images)`` runs it layer by layer.

    ``trace`` is empty where nobody can look inside; ``extra`` names what must be installed to write it, if it is not
    there always: such a format is written where it is asked for. ``ios``: what its files may take and give; ``target``
    is told by ``io=`` where that is not a picture and real logits.
    """

    target: str
    trace: str
    extension: str
    package: str
    extra: str = ""
    ios: tuple[IO, ...] = (IO.PICTURE,)


@dataclass(frozen=True)
class RuntimeRow:
    """An engine: ``target`` is its class, ``package`` what pip installs by the name ``extra``, and what it reads.

    Any one of ``modules`` must be there for it to run. ``untimed`` says why its latency is not measured, if it is not.
    ``macs_per_s`` is its speed on one core where that is low: files are then verified on fewer pictures.
    """

    target: str
    package: str
    extra: str
    formats: tuple[Format, ...]
    modules: tuple[str, ...] = ()
    untimed: str = ""
    macs_per_s: float | None = None


MODELS: dict[str, ModelRow] = {
    # The exact parameter counts are those of the reference implementations.
    "mobilenet_v1": ModelRow(
        "edgecnn.models.mobilenet_v1:mobilenet_v1",
        "Howard 2017, arXiv:1704.04861",
        224,
        Published(1000, 4_231_976, 569e6),
    ),
    "mobilenet_v2": ModelRow(
        "edgecnn.models.mobilenet_v2:mobilenet_v2",
        "Sandler 2018, arXiv:1801.04381",
        224,
        Published(1000, 3_504_872, 300e6),
    ),
    "mobilenet_v3_small": ModelRow(
        "edgecnn.models.mobilenet_v3:mobilenet_v3_small",
        "Howard 2019, arXiv:1905.02244",
        224,
        Published(1000, 2_542_856, 56e6),
    ),
    "mobilenet_v3_large": ModelRow(
        "edgecnn.models.mobilenet_v3:mobilenet_v3_large",
        "Howard 2019, arXiv:1905.02244",
        224,
        Published(1000, 5_483_032, 219e6),
    ),
    "mobilenet_v4_small": ModelRow(
        "edgecnn.models.mobilenet_v4:mobilenet_v4_small",
        "Qin 2024, arXiv:2404.10518",
        224,
        Published(1000, 3_774_024, 190e6),
    ),
    "mcunet": ModelRow(
        "edgecnn.models.mcunet:mcunet", "Lin 2020, arXiv:2007.10319", 176, Published(1000, 737_408, 81.8e6)
    ),
    # The Keras reference prints 78,666: it counts the 480 running statistics of batch norm too.
    "resnet8": ModelRow(
        "edgecnn.models.resnet8:resnet8",
        "Banbury 2021 (MLPerf Tiny), arXiv:2106.07597",
        32,
        Published(10, 78_666 - 480, 12.5e6),
    ),
    "resnet11": ModelRow(
        "edgecnn.models.resnet11:resnet11", "Jordan 2024, arXiv:2404.00498", 32, Published(10, 3_195_690, 208.5e6)
    ),
    # 0.27, 0.46 and 0.85 M in the paper, without parameters in the shortcuts; the two projections have 2,752.
    "resnet20": ModelRow(
        "edgecnn.models.resnet_cifar:resnet20",
        "He 2016, arXiv:1512.03385, section 4.2",
        32,
        Published(10, 269_722 + 2_752, 40.8e6),
    ),
    "resnet32": ModelRow(
        "edgecnn.models.resnet_cifar:resnet32",
        "He 2016, arXiv:1512.03385, section 4.2",
        32,
        Published(10, 464_154 + 2_752, 69.1e6),
    ),
    "resnet56": ModelRow(
        "edgecnn.models.resnet_cifar:resnet56",
        "He 2016, arXiv:1512.03385, section 4.2",
        32,
        Published(10, 853_018 + 2_752, 125.7e6),
    ),
    # As torchvision counts them; it has the stride of a bottleneck at the 3x3 convolution, which costs ResNet-50 0.3 G.
    "resnet18": ModelRow(
        "edgecnn.models.resnet:resnet18", "He 2016, arXiv:1512.03385", 224, Published(1000, 11_689_512, 1.8e9)
    ),
    "resnet34": ModelRow(
        "edgecnn.models.resnet:resnet34", "He 2016, arXiv:1512.03385", 224, Published(1000, 21_797_672, 3.6e9)
    ),
    "resnet50": ModelRow(
        "edgecnn.models.resnet:resnet50", "He 2016, arXiv:1512.03385", 224, Published(1000, 25_557_032, 4.09e9)
    ),
    # torchvision's numbers; in training a batch norm's two instead of a bias, and the classifier behind the pooling.
    "squeezenet": ModelRow(
        "edgecnn.models.squeezenet:squeezenet",
        "Iandola 2016, arXiv:1602.07360 (release 1.1)",
        224,
        Published(1000, 1_235_496 + 2_944, 349e6 - 86e6),
    ),
    **{
        f"efficientnet_lite{number}": ModelRow(
            "edgecnn.models.efficientnet_lite:efficientnet_lite",
            "Tan 2019, arXiv:1905.11946 (Lite: TensorFlow TPU repository)",
            size,
            Published(1000, params, macs),
        )
        for number, (size, params, macs) in enumerate(
            [
                (224, 4_652_008, 407e6),
                (240, 5_416_680, 631e6),
                (260, 6_092_072, 899e6),
                (280, 8_197_096, 1.44e9),
                (300, 13_006_568, 2.64e9),
            ]
        )
    },
    **{
        f"shufflenet_v2_{width}": ModelRow(
            f"edgecnn.models.shufflenet_v2:shufflenet_v2_{width}",
            "Ma 2018, arXiv:1807.11164",
            224,
            Published(1000, params, macs),
        )
        for width, params, macs in (("x0_5", 1_366_792, 41e6), ("x1_0", 2_278_604, 146e6), ("x1_5", 3_503_624, 299e6))
    },
    "plain_cnn": ModelRow("edgecnn.models.plain_cnn:plain_cnn", "LeCun 1998, doi:10.1109/5.726791 (pattern)", 32),
}

FORMATS: dict[Format, FormatRow] = {
    Format.ONNX: FormatRow("edgecnn.export.onnx:render", "edgecnn.export.onnx:trace", ".onnx", "onnx"),
    Format.TFLITE: FormatRow(
        "edgecnn.export.tflite:render", "edgecnn.export.tflite:trace", ".tflite", "ai-edge-litert", ios=tuple(IO)
    ),
    Format.PTE: FormatRow("edgecnn.export.executorch:render", "", ".pte", "executorch", "executorch"),
}

RUNTIMES: dict[Runtime, RuntimeRow] = {
    # The first engine that reads a format is the one an exported file must agree with to be kept.
    Runtime.TORCH: RuntimeRow("edgecnn.runtimes.engine_torch:Engine", "torch", "", (Format.TORCH,), ("torch",)),
    Runtime.ONNXRUNTIME: RuntimeRow(
        "edgecnn.runtimes.engine_onnxruntime:Engine", "onnxruntime", "onnxruntime", (Format.ONNX,), ("onnxruntime",)
    ),
    # The TFLite runtime under its present and its former name.
    Runtime.LITERT: RuntimeRow(
        "edgecnn.runtimes.engine_litert:Engine",
        "ai-edge-litert",
        "litert",
        (Format.TFLITE,),
        ("ai_edge_litert", "tflite_runtime"),
    ),
    Runtime.OPENVINO: RuntimeRow(
        "edgecnn.runtimes.engine_openvino:Engine", "openvino", "openvino", (Format.ONNX,), ("openvino",)
    ),
    Runtime.TFLM: RuntimeRow(
        "edgecnn.runtimes.engine_tflm:Engine",
        "tflite-micro",
        "tflm",
        (Format.TFLITE,),
        ("tflite_micro",),
        untimed="its reference kernels here say nothing about a microcontroller",
        macs_per_s=1e8,
    ),
    Runtime.EXECUTORCH: RuntimeRow(
        "edgecnn.runtimes.engine_executorch:Engine", "executorch", "executorch", (Format.PTE,), ("executorch",)
    ),
    Runtime.NULL: RuntimeRow("edgecnn.runtimes.engine_null:Engine", "", "", tuple(Format)),
}

DEFAULT_FORMATS = tuple(name for name, row in FORMATS.items() if not row.extra)

Row = TypeVar("Row")


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module. Raises ``MissingPackageError`` that says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingPackageError(
            f"{module.split('.')[0]} is not installed", hint=f"install it with: pip install 'edgecnn[{extra}]'"
        ) from error


def load(target: str) -> Any:
    """The object that ``"module:attribute"`` names."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def row(table: Mapping[Any, Row], name: str, what: str, error: type[EdgecnnError] = UsageError) -> Row:
    """The row called ``name``. Raises ``error`` naming the close matches when there is none."""
    if name in table:
        return table[name]
    names = [str(key) for key in table]
    close = difflib.get_close_matches(name, names, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise error(f"unknown {what} {name!r}", hint=f"{guess}known: {', '.join(names)}")


def model_row(name: str) -> ModelRow:
    """The model's row; ``timm:<name>`` and ``torchvision:<name>`` are models there. Raises ``ModelError``."""
    if name.startswith("timm:"):
        return ModelRow("edgecnn.models.timm_models:timm_model", f"timm model {name[5:]}", 224)
    if name.startswith("torchvision:"):
        found: ModelRow = load("edgecnn.models.torchvision_models:row")(name)
        return found
    return row(MODELS, name, "model", ModelError)


def readers(format: Format) -> list[Runtime]:
    """The runtimes that read files of a format; a file must agree with the first to be kept."""
    return [name for name, row in RUNTIMES.items() if format in row.formats and name is not Runtime.NULL]


def engines() -> dict[str, str]:
    """Each runtime and whether it can be used here, or how to install it."""
    found = {}
    for name, row in RUNTIMES.items():
        here = not row.package or any(importlib.util.find_spec(module) for module in row.modules)
        found[str(name)] = "ready" if here else f"not installed: pip install 'edgecnn[{row.extra}]'"
    return found
