"""Engines that execute a network file, each behind the same few methods, always in a process of its own.

Decisions:

* **One worker.** ``worker.py`` is a stand-alone program: Python, numpy and one engine. It speaks length-prefixed
  frames on stdin and stdout (``framing.py``), so a local subprocess, a file pushed to a board over ssh and a test all
  talk to the same thing. ``pack.py`` writes it as one ``.pyz`` file for machines where edgecnn is not installed.
* **A process per measurement.** A fresh process has a fresh allocator, fresh thread pools and a peak memory of its
  own; a crash inside an engine is an error with the engine's last words, not the end of the benchmark.
* **Timing happens in the worker** (``timing.py``), where the network runs; the pipe is never inside a measured time.
* **Pictures in, logits out.** ``infer`` takes ``uint8`` pictures ``(N, H, W, C)``, RGB or grey, and returns ``float32``
  logits ``(N, K)``, for edgecnn's own files and for foreign ones: layout, integer inputs and outputs, and a fixed batch
  size are the adapter's business (``ports.py``).
* **One engine = one file + one row** in ``edgecnn.catalog.RUNTIMES``; ``engine.py`` says what it must offer.
"""
