"""Writing a graph down for other runtimes: one module per format, all from the same plain graph.

* **Nothing is decided here.** A float graph gives a float file, a quantized graph an int8 file with the scales, zero
  points and integer weights it came with. No converter, no calibration, no tracing: each format is written operator by
  operator, so the shape of the file is ours and fits what its runtime executes fast. (ExecuTorch's is lowered by its
  own compiler, from operators that are written so that it takes the numbers as they are.)
* **A file takes what a camera gives**: ``image``, uint8 (batch, H, W, 3), or (batch, H, W, 1) of grey ones, any batch
  size (in ExecuTorch 1); it gives ``logits``, float32 (batch, classes). Normalization is inside, and free in int8 when
  one mean and one std serve all channels.
* **One set of names.** A tensor is called what the graph calls it, so ``trace`` can compare two runtimes layer by
  layer.
* **The file explains itself**: labels and preprocessing travel in its metadata (:mod:`edgecnn.export.meta`).
"""
