"""Versions of the packages that decide results."""

from __future__ import annotations

from importlib import metadata

RECORDED = (
    *(
        "edgecnn",
        "torch",
        "numpy",
        "onnx",
        "onnxruntime",
        "ai-edge-litert",
        "openvino",
        "tflite-micro",
        "executorch",
        "torch-pruning",
        "timm",
    ),
    *("albumentations", "opencv-python-headless"),
)


def versions() -> dict[str, str]:
    """The version of each of them that is installed."""
    return {package: version for package in RECORDED if (version := installed(package)) is not None}


def installed(package: str) -> str | None:
    """The version of a package; None where it is not installed. Nothing is imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
