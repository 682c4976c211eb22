"""The plots of a report, each a function from values to one SVG element that stands in the page as it is."""

from __future__ import annotations

from edgecnn.report.confusion import draw_confusion
from edgecnn.report.curves import draw_curves
from edgecnn.report.scatter import draw_scatter

__all__ = ["draw_confusion", "draw_curves", "draw_scatter"]
