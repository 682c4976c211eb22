"""Make a network smaller: fewer channels (prune) or fewer bits (calibrate, quantize); say what bits cost (diagnose).

Quantization takes a captured float graph (:mod:`edgecnn.graph`, where the reasons for a representation of our own
are) and decides every integer once; the formats are only written from the result, and no exporter or runtime
calibrates anything.

What was decided, and why:

* **Ranges are observed after the activation**, on the fused tensors, so no level is spent on values a relu removes; a
  clamp costs nothing, since the end of the range does it. A range never reaches beyond what its reader can tell
  apart: in front of a hard-swish it ends at -3, below which the output is 0 anyway.
* **Channels are equalized before anything is decided** (:mod:`edgecnn.compress.equalize`): one scale per tensor is
  enough for activations once all channels use it. What ties channels to one another is followed channel by channel
  (:mod:`edgecnn.compress.channel_ties`), and where a hard-swish is in the way of very unequal ones its gate is made one
  per channel (:mod:`edgecnn.compress.gates`): of all that was tried for MobileNetV3, this is what it lacked.
* **Weights are rounded by what they meet** (:mod:`edgecnn.compress.rounding`), not each to the nearest step. Together
  the two took MCUNet's divergence from its float network from 0.082 to 0.014 nats, for two passes over the calibration
  pictures and no gradient.
* **Ranges**: ``auto`` tries minimum and maximum, a percentile, entropy and squared error for each tensor and takes the
  one that its readers lose least by (:mod:`edgecnn.compress.choosing`). The moving average is there by name only: it
  depends on the order of the pictures and cuts what the last ones do not show (MCUNet loses 12 points by it).
* **Every repair is judged** on validation pictures against plain quantization and not used where it does not help
  (:mod:`edgecnn.pipeline.climbing`).
* **Batch normalization is estimated again** (:mod:`edgecnn.compress.reestimate`) only where the rest was not enough:
  after second-order rounding it gains nothing on average.
* **Rounding is learned** (:mod:`edgecnn.compress.adaround`) only there too: tens of seconds and a fifth less divergence
  of an int8 network that was repaired; with 4-bit weights half of it.
* **The numbers of the input are not calibrated but known**: pixel - 128 is the quantized input, exactly.
* **Hard-swish is decomposed** into a gate ``clamp(x / 6 + 1/2, 0, 1)`` with the fixed numbers 1/255 and -128, and a
  product. No runtime has a fast int8 hard-swish, all have these two. SiLU likewise, with a sigmoid.
* **Weights** are symmetric per output channel in [-127, 127]; biases int32. One scale per tensor loses 3-6 points on
  depthwise nets.
* **What int8 breaks may stay float** (:mod:`edgecnn.compress.bits`, :mod:`edgecnn.compress.mixed`): the numbers of the
  rest stay as they were decided, and which layers is measured, not guessed. A tensor has the same values for all that
  read it, so a layer's output is real only where its readers compute in float too, and they are chosen together.
* **What a runtime computes faster otherwise is measured in it** (:mod:`edgecnn.compress.alike`,
  :mod:`edgecnn.pipeline.timed_choice`), and only where a runtime is named. What OpenVINO wants, hard-swishes on
  unrounded convolutions, makes float layers of them in ONNX Runtime and LiteRT.
* **Weights alone may have fewer bits** (:mod:`edgecnn.compress.weight_only`): int8, 4 bits in groups, float16, computed
  in float32, and rounded by what they meet as well. 4-bit scales are those of the largest weight: cutting it off has
  less squared error, but with second-order rounding more divergence (ResNet-20 in groups of 32: 0.0031 nats against
  0.0022). With one scale for a whole tensor it is the other way round (:mod:`edgecnn.compress.grid`).
* **Same pictures, same numbers**: neither the batching of the calibration pictures nor the number of threads changes
  what is seen of a tensor by more than float32 rounding of the float network itself (their order, which the seed
  decides, says in which places rounding looks at them and on which ones ranges are tried); the quantized network is
  computed with exact sums and gives the same bits everywhere.
* **Training comes after deciding, if at all** (:mod:`edgecnn.compress.qat`): it starts from these numbers, is taught by
  the float network, and ends in numbers of the same kind, which are kept only where they are more accurate on the
  validation pictures.
"""
