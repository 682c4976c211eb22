"""The network as plain data, and why edgecnn has a representation of its own.

The int8 numbers of a network have to be decided once and mean the same in every format. There were three ways:

1. *Mend the renderers of PyTorch's PT2E graph.* Its quantize-dequantize graph exists before any format does. But the
   XNNPACK quantizer observes convolutions before their activation, and neither exporter keeps the graph integer:
   some convolutions stay in float in ONNX Runtime, and islands of quantize and dequantize appear in TFLite.
2. *Hand the numbers to each format's own quantizer as overrides* (ONNX Runtime's ``TensorQuantOverrides``,
   ai-edge-quantizer's calibration result). Both runtimes then agree, and the graph has the shape that its runtime
   likes. But tensors have to be matched between formats by probing, each quantizer still decides what to quantize and
   how to round weights and biases, and a float converter with its own opinions (batch 1, folding, gigabytes of
   memory) comes before it.
3. *Capture the network into a small representation and write each format from it.* Chosen.

An image classifier needs some twenty operators, so a format's writer is a table of as many short functions. In
return:

* a tensor has one name in all formats **by construction**: the path of the torch module that computes it;
* the shape of the graph is ours: batch normalization, padding and activations are folded before any number is
  decided, nothing is ever quantized before its activation, and hard-swish becomes two integer operators that every
  runtime has;
* an int8 file is integer throughout because nothing else is ever written, and where a part of a network is to compute
  in float (a property of a node, not a pair of operators in the graph) each format says the borders in its own way;
* the arithmetic is written down operator by operator (:mod:`edgecnn.graph.integer`) and simulated with exact sums, so
  "the same network" is a statement that can be tested bit by bit, and a difference has a place and a size;
* no converter is needed to install, and the batch size stays dynamic in TFLite too.

The price: an operator outside the table is refused, by name and module, when the model is captured.

    ir          the node, the graph and its numbers
    capture     torch module -> graph, through torch.export (builder: names and weights; aten, aten_moves: a rule per
                operator; fx: what the rules ask a torch node)
    simplify    passes graph -> graph
    weights     how weights are stored in fewer bits, and what they stand for
    real        what each operator computes in float32
    integer     what each operator computes in int8: the specification
    interpret   run a graph in torch
    store       a graph on disk
"""
