"""Where pictures come from and how they become arrays. What was decided here, and why:

* **One way in.** ``source.open_data`` turns a name or a path into an ``ImageSet``; nothing else knows where
  pictures come from. A new kind of source is one file with a class that has the members of ``items.ImageSet``, and
  one row in ``kinds.KINDS``.
* **Everything is checked before anything runs.** Opening a folder decodes every file with the code that training
  uses, and raises one ``DataError`` with every broken file, every class that is too small and every class that is
  missing from a split.
* **One preprocessing.** ``preprocess.apply`` is the reference for training, calibration, evaluation, every runtime and
  prediction. It is Pillow all the way (antialiased resize of the short side, centre crop). JPEG's fast scaled decoding
  ("draft") is not used, because it changes pixels.
* **What a picture is.** 8-bit RGB, upright by its EXIF orientation. 16-bit samples keep the high byte (what Pillow
  does with 16-bit colour, so grey and colour agree). Transparency is laid over white. CMYK goes through Pillow's
  plain formula and colour profiles are ignored. Of animations the first frame counts. 32-bit and floating-point
  samples have no defined white and are refused. A network of one channel gets Pillow's mode L of that.
* **Three splits that never overlap**, always all three, stratified, chosen by hashing seed and id: a split is the
  same on every machine, and a picture added later moves few others. The ids belong into the bundle;
  ``source.with_splits`` restores them.
* **Several labels per picture** come from a table (``label_table.py``), as a matrix of 0 and 1, and are split so that
  every split has every label in its proportion (``grouping.py``).
* **Test means test.** A folder with ``train/`` and ``val/`` only gets a new val split out of train, and its ``val/`` is
  reported on and never tuned on.
* **A fold is a source.** ``SOURCE#fold=2/5`` has the fold as its test split and takes val out of the rest, so every
  fold is trained, evaluated and made again like any other set. Groups (a table's column ``group``) are never torn
  apart by anything that splits here.
* **Statistics and calibration see train only.** By default one mean and one std serve all channels, with 255 * mean
  whole: then normalization folds exactly into the quantized input. Pretrained networks keep the constants they were
  trained with.
* **uint8 arrays in memory, a mapped file where that is too little** (``memory.py`` says how much there is,
  ``mapped.py`` keeps the file). What is small is decoded once per process; what is large once per machine, under a key
  that knows when a picture has changed.
* **What no disk holds is streamed** (``stream.py``): the training pictures are decoded anew in every epoch. Shards are
  indexed, and a sample of them is looked at, when they are opened; in the place of a broken picture stands the next
  one, which is told, and more than one in a hundred is an error. Val and test stay arrays, of as many as fit.
"""
