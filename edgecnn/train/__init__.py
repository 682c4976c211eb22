"""Training: a plain loop over arrays in memory.

Decisions of this folder:

* Pictures stay ``uint8`` in memory; a batch is gathered, augmented as one tensor and normalized on the fly
  (``augment.py``). There are no worker processes.
* All randomness of an epoch comes from ``(seed, epoch)``: order, augmentation, dropout. No generator state has to be
  stored, and a run that was killed ends with the same weights, bit for bit, as one that was not (``run.py``).
* Several processes, started by torchrun, share each batch: same pictures, same gradients, one of them writes
  (``distributed.py``; ``sync_bn.py`` for batch normalization over all of them).
* A checkpoint is one safetensors file, replaced atomically, with its JSON inside the header (``checkpoint.py``). The
  last two are kept. SIGTERM, a full disk and a loss that is no number end a training with a sentence that says what is
  left, and with both of them whole (``stopping.py``, ``disk.py``).
* What the logits mean (``edgecnn.tasks``) is the settings' ``task``. The best epoch is that of the highest top-1 on the
  validation pictures, with several labels that of the highest mean average precision.
* What is evaluated, kept as best and returned are the averaged weights when ``ema`` is set.
* The loop draws nothing: it calls ``on_epoch`` with the row it also writes to ``history.csv``.
"""
