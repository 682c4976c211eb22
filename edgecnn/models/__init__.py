"""Networks: one file per paper, and everything that knows their shape.

Decisions taken here:

* A network is described by a ``ModelSpec`` (``model_spec.py``): a name and numbers, JSON both ways. ``zoo.build``
  turns it into a module with fresh weights. A builder is one function ``ModelSpec -> nn.Module``, found by name in
  the catalog, so a new network is one file and one row.
* Our own networks are written after the paper, cited with its table; module names say what a layer does
  (``blocks.3.project.conv``), and tensors stand in the order of execution, so foreign weights of the same network
  load by order with every shape checked (``pretrained.py``). ``timm:<name>`` is any network of timm,
  ``torchvision:<name>`` any classifier of torchvision.
* Images of at most 64 px get reduced early strides (``model_spec.plan_strides``), unless strides are given.
* ``layers.py`` counts parameters and multiply-adds, the papers' way: convolutions and linear layers only. It is the
  only counter in the package, so figures before and after compression compare.
* A network whose channels were cut is its ModelSpec plus a channel plan (``channel_plan.py``): shapes by module path,
  plain JSON. Built, cut to the plan, and loaded strictly, it is the same network to the last bit. Nothing is pickled.
"""
