"""Clock cycles of a pass: tiles, the slots that each streams, and what shows between them.

The equations of `gradloom_golden.cycles` for arrays, and those of SCALE-Sim's folds. With R rows,
C columns, n tiles of S slots:

=========  ==========================================================================
serial     n (R + S + R + C - 2), with R more where results drain and that is counted
chained    R + n S + (n - 1)(2R - 1) + R + C, with drain 2R - 1 + C at the end
hidden     R + 1 + (n - 1) max(S, 2R) + S + R + C, with drain max(S, 2R) for every
           tile of several, and 2R - 1 + C at the end
ideal      R + 1 + n S + R + C, with drain 2R - 1 + C at the end
=========  ==========================================================================

Without weights to load (output-stationary only), the first R (R + 1) and the R of each fold fall
away, and the first tile has nothing to hide.
"""

import numpy as np

__all__ = ["pass_cycles"]


def pass_cycles(folds: str, rows, columns, tiles, slots, *, loads: bool, drains: bool,
                os_drain: bool = True) -> np.ndarray:
    """Return the cycles of passes; those without slots cost nothing.

    Parameters
    ----------
    folds : str
        "serial", "chained", "hidden" or "ideal".
    rows, columns, tiles, slots : int arrays
        That broadcast; `slots` are those of a tile.
    loads, drains : bool
        Whether tiles are loaded into the array first, and leave it at the end.
    os_drain : bool
        Whether a serial drain shows.
    """
    if folds == "serial":
        shifts = rows * loads + rows * (drains and os_drain)
        found = tiles * (shifts + slots + rows + columns - 2)
    else:
        last = 2 * rows - 1 + columns if drains else rows + columns
        if folds == "chained":
            found = rows * loads + tiles * slots + (tiles - 1) * (2 * rows - 1) + last
        else:
            hiding = np.maximum(slots, 2 * rows) if folds == "hidden" else slots
            once = np.where(tiles > 1, hiding, slots) if drains and loads else slots
            found = (rows + 1) * loads + (tiles - 1) * hiding + once + last
    return np.where(np.minimum(tiles, slots) > 0, found, 0)
