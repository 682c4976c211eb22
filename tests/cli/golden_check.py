"""Prints the largest difference between a bundle's golden logits and those it gives now. Run in a fresh process."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edgecnn.bundle import open_bundle
from edgecnn.pipeline.loading import golden, predictor

for name in sys.argv[1:]:
    bundle = open_bundle(Path(name))
    kept = golden(bundle)
    print(bundle.name, float(np.abs(predictor(bundle)(kept["images"]) - kept["logits"]).max()))
