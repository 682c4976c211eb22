"""From a folder of pictures to an image classifier on the device: train, compress, export, verify, benchmark.

The verbs of the command line are functions of ``edgecnn.api`` (the folders ``edgecnn.train``, ``edgecnn.compress``,
``edgecnn.export`` and ``edgecnn.report`` are what they are made of, and own those names)::

    from edgecnn import api

    bundle = api.train("photos/", "runs/flowers", model="mobilenet_v2", image_size=128, epochs=20)
    small = api.compress("runs/flowers", prune=0.3, quantize="int8")
    api.export("runs/flowers")
    rows = api.benchmark("runs/flowers", threads=(1, 2))
    page = api.report("runs/flowers")

Importing ``edgecnn`` imports nothing heavy.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
