"""What ONNX Runtime's fast int8 kernels do to the answers on a processor without VNNI.

    python benchmarks/saturation.py runs/flowers5-lite0/int8 --name flowers5_lite0

Top-1 agreement of the int8 file with torch's integer simulation on the test split, with exact and with fast kernels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from figures import record, save_result

from edgecnn.bundle import open_bundle
from edgecnn.data.tensors import load_split
from edgecnn.measure.parity import compare_logits
from edgecnn.measure.stats import wilson
from edgecnn.pipeline.candidates import candidate_of
from edgecnn.pipeline.context import data_of
from edgecnn.pipeline.loading import predictor, preprocess_of
from edgecnn.runtimes.session import open_session
from edgecnn.spec import Runtime, Split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--name", required=True)
    args = parser.parse_args()
    bundle = open_bundle(args.bundle)
    test = load_split(data_of(bundle), Split.TEST, preprocess_of(bundle))
    decided = predictor(bundle)(test.images)
    file = candidate_of(bundle, Runtime.ONNXRUNTIME).path
    results = {}
    for kernels, choice in (("exact", "on"), ("saturating", "off")):
        with open_session(Runtime.ONNXRUNTIME, file, options={"exact_int8": choice}) as session:
            found = session.infer(test.images)
        same = int((decided.argmax(1) == found.argmax(1)).sum())
        record(f"{args.name}_agreement_onnxruntime_{kernels}", wilson(same, len(found)), "percent")
        results[kernels] = vars(compare_logits(decided, found))
    save_result(f"{args.name}_saturation", results)


if __name__ == "__main__":
    main()
