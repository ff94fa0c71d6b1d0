"""Small drawings of the array, for a page."""

__all__ = ["drawings"]

CELL, GAP, LEFT, TOP = 34, 8, 62, 40

ARRIVES, LEAVES = "#3581C4", "#D55E00"
"""Colours of arrows."""


def drawings() -> dict[str, str]:
    """Return an SVG by title: what stays, what comes in, what leaves."""
    return {
        "Forward, weight-stationary": _array("W", west="X", south="Y"),
        "Input gradient, weight-stationary": _array("W", north="D", east="dX"),
        "Weight gradient, output-stationary": _array("dW", west="X", north="D"),
        "Interleaved: both gradients on one load": _array(
            "W dW", west="X", north="D", east="dX"),
    }


def _array(inside: str, west: str = "", north: str = "", east: str = "", south: str = "") -> str:
    edge = 3 * CELL + 2 * GAP
    width, height = LEFT + edge + 62, TOP + edge + 40
    middle = edge / 2
    parts = []
    two = inside.split()
    for row in range(3):
        for column in range(3):
            x, y = LEFT + column * (CELL + GAP), TOP + row * (CELL + GAP)
            shaded = len(two) > 1 and (row + column) % 2
            parts.append(f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="4" '
                         f'fill="currentColor" fill-opacity="{0.16 if shaded else 0.05}" '
                         'stroke="currentColor" stroke-opacity="0.6"/>')
            text = two[1 if shaded else 0]
            parts.append(_text(x + CELL / 2, y + CELL / 2 + 4, text, "currentColor"))
    for row in range(3):
        y = TOP + row * (CELL + GAP) + CELL / 2
        if west:
            parts.append(_arrow(LEFT - 26, y, LEFT - 5, y, ARRIVES))
        if east:
            parts.append(_arrow(LEFT + edge + 5, y, LEFT + edge + 26, y, LEAVES))
    for column in range(3):
        x = LEFT + column * (CELL + GAP) + CELL / 2
        if north:
            parts.append(_arrow(x, TOP - 24, x, TOP - 5, ARRIVES))
        if south:
            parts.append(_arrow(x, TOP + edge + 5, x, TOP + edge + 24, LEAVES))
    for text, x, y, paint in (
            (west, LEFT - 42, TOP + middle + 4, ARRIVES), (north, LEFT + middle, TOP - 28, ARRIVES),
            (east, LEFT + edge + 44, TOP + middle + 4, LEAVES),
            (south, LEFT + middle, TOP + edge + 38, LEAVES)):
        if text:
            parts.append(_text(x, y, text, paint, 15))
    return (f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{inside} in the cells">'
            f'{"".join(parts)}</svg>')


def _text(x: float, y: float, text: str, paint: str, size: int = 12) -> str:
    return (f'<text x="{x:g}" y="{y:g}" text-anchor="middle" font-size="{size}" '
            f'font-family="inherit" fill="{paint}">{text}</text>')


def _arrow(x1: float, y1: float, x2: float, y2: float, paint: str) -> str:
    if x1 == x2:
        head = f"{x2 - 4:g},{y2 - 6:g} {x2 + 4:g},{y2 - 6:g} {x2:g},{y2:g}"
    else:
        head = f"{x2 - 6:g},{y2 - 4:g} {x2 - 6:g},{y2 + 4:g} {x2:g},{y2:g}"
    return (f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="{paint}" stroke-width="1.8"/>'
            f'<polygon points="{head}" fill="{paint}"/>')
