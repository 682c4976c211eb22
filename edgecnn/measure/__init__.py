"""Figures that can be trusted: every one comes with an interval, a count and the context it was taken in.

Decisions:

* **Statistics are pure numpy** (``stats.py``), seeded, and know nothing of networks.
* **A latency is the median over several fresh processes**; its interval comes from a bootstrap that resamples
  processes and, within a process, blocks of neighbouring calls, because calls that follow each other resemble each
  other. When the interval is not narrow enough within the budget the row says ``inconclusive``; the value is given all
  the same.
* **Two files are compared by interleaving them** in random order; the interval of the paired ratio decides, not two
  medians taken at different times.
* **Accuracy is that of the exported file in the runtime**, with a Wilson interval; against the parent, McNemar and
  agreement.
* **Several labels** have figures of their own (``several_labels.py``); what is called top-1 is then the exact match.
* **Parity** compares logits on the same real pictures and names the first layer that diverges and what is wrong with
  it.
"""
