"""From a folder of pictures to an image classifier on the device: train, compress, export, verify, benchmark.

The verbs of the command line as functions, each imported when it is first used::

    import edgecnn
    bundle = edgecnn.train("photos/", "runs/flowers", model="mobilenet_v2", epochs=20)
    small = edgecnn.compress("runs/flowers", prune=0.3, quantize="int8")
    edgecnn.export("runs/flowers")
    rows = edgecnn.benchmark("runs/flowers", threads=(1, 2))
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "benchmark", "compress", "evaluate", "export", "predict", "report", "run", "train", "verify"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from edgecnn import api

        return getattr(api, name)
    raise AttributeError(f"module 'edgecnn' has no attribute {name!r}")
