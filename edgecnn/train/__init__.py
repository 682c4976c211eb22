"""Training: a plain loop over batches of pictures.

Decisions of this folder:

* Pictures stay ``uint8`` in memory; a batch is gathered, augmented as one tensor and normalized on the fly
  (``augment.py``). There are no worker processes.
* A set too large for that is decoded by threads a few batches ahead. Array and stream are two feeds with one contract
  (``feed.py``). The order of a stream follows from (seed, epoch) (``order.py``), the augmentation of a step from
  (seed, epoch, step): so a stream is also kept, and taken up, within an epoch (``keeping.py``), and any number of
  processes gets the same batches.
* All randomness of an epoch comes from ``(seed, epoch)``: order, augmentation, dropout. No generator state has to be
  stored, and a run that was killed ends with the same weights, bit for bit, as one that was not (``run.py``).
* Several processes, started by torchrun, share each batch: same pictures, same gradients, one of them writes
  (``distributed.py``; ``sync_bn.py`` for batch normalization over all of them).
* What a step does with the weights is one object (``update.py``): fp16's scaled loss, sharpness-aware steps, clipping.
  What the machine can do is asked before the pictures are loaded, and what a training changes in its process is put
  back (``machine.py``). Compilers and hooks never touch the network that is kept: its names stay its own.
* A checkpoint is one safetensors file, replaced atomically, with its JSON and a checksum inside the header
  (``checkpoint.py``). The last two are kept. SIGTERM, a full disk and a loss that is no number end a training with a
  sentence that says what is left, and with both of them whole (``stopping.py``, ``edgecnn/disk.py``).
* What the logits mean (``edgecnn.tasks``) is the settings' ``task``. The best epoch is that of the highest top-1 on the
  validation pictures, with several labels that of the highest mean average precision.
* What is evaluated, kept as best and returned are the averaged weights when ``ema`` is set.
* The loop draws nothing: it calls ``on_epoch`` with the row it also writes to ``history.csv``.
"""
