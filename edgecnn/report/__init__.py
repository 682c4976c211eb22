"""What a person reads: a table in the terminal, ``report.json``, and one HTML page that stands on its own.

Decisions of this folder:

* Everything shown comes in as the plain values of ``rows.py``: nothing is measured or opened here, so a report can be
  drawn again from its JSON years later, on a machine without torch.
* A failure is a row. It keeps its place in the table and says its reason; a plot says how many rows it could not draw.
* Plots are SVG written by hand. They stay sharp in print, follow light and dark through CSS variables, need no import
  heavier than the standard library, and keep the page small.
* The page fetches nothing: styles and the sorting script are inside it, and its content security policy forbids the
  rest. All text passes through ``markup.element``, which escapes by default.
* ``columns.py`` says once what a column is; the terminal and the page both read it.
"""

from __future__ import annotations
