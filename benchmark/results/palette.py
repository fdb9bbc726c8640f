"""Colours of series that colour-blind people can tell apart, on white and on the report's dark card.

Found by search from the colours of Okabe and Ito: at least 15 CIELAB units between any two, and full precision's grey,
under normal vision and simulated protanopia, deuteranopia and tritanopia; contrast to the background at least 3. Colour
is never the only mark: charts add a shape or a dash.
"""

from __future__ import annotations

LIGHT = ("#0072b2", "#d55e00", "#076344", "#d972ab", "#bf8947", "#3b9cd7", "#613f84", "#7a5025")
DARK = ("#56a8e0", "#f08a3c", "#50d5a9", "#c16880", "#ffc74c", "#9cd0ff", "#8d74ad", "#c3936b")
REFERENCE = {"light": "#6b7480", "dark": "#9aa4b0"}
"""Full precision."""
