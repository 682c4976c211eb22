"""Steps joined into runs: each function here takes plain values, reads a bundle and writes one.

A run is a folder of bundles. A step looks first whether a bundle with its fingerprint is already at its place, and then
does nothing; a step that was interrupted finds its work folder (``.<stage>.work``) and goes on from the last
checkpoint. Files that grow beside a finished bundle (exports, measurements) carry the hash of what they were made from,
and are made again when it differs.

    context.py       where a run lies, which data it uses, who is told about progress
    loading.py       bundle -> torch module, graph, predictor
    training.py      train
    compressing.py   prune
    quantizing.py    quantize: the ladder, whose rungs climbing.py makes and ladder.py judges; loosening.py, mixed
                     precision, quantized_training.py, and timed_choice.py, numbers made for one runtime
    explaining.py    where an int8 bundle loses accuracy: text and page
    verifying.py     parity of every stage against its parent, kept by parity_log.py
    exporting.py     export, and the gate that guards it
    candidates.py    what can be measured: a bundle, a file rendered from it, a foreign file
    benchmarking.py  latency, memory, size and accuracy: rows
    inference.py     evaluate, predict
    figuring.py      the figures that manifests hold
    scoring.py       all figures of an evaluation: text, JSON, page
    inspecting.py    the layer table
    reporting.py     rows -> report.html, report.json
    run.py           a recipe, step by step
"""
