"""Which probability of the label is high enough to skip a sample, from a budget of error.

Samples are sorted by the error e = 1 - p_y of their label into `BUCKETS` buckets of ``2**-6``, and
each bucket sums e^2. The rule then skips the most confident whole buckets whose sum stays within a
share eps of the total. With C classes ``e^2 C / (C-1) <= ||p - y||^2 <= 2 e^2``, so of the N
samples measured those that the rule would skip hold

    sum_skipped ||p - y||^2 <= 2 eps (1 - 1/C) sum ||p - y||^2 + N 2^-15

where the last term is what the squares lose when they are cut to 16 bits. Samples that come later
are judged by this threshold, not by the bound.
"""

import numpy as np

from .confidence import NEVER

__all__ = ["BUCKETS", "BUCKET_BITS", "ONE", "SUM_BITS", "Budget", "choose_cycles"]

BUCKETS = 64
BUCKET_BITS = 10
"""A bucket is ``2**BUCKET_BITS`` wide in units of 2**-16."""

SUM_BITS = 32
"""A bucket's sum of e^2 in units of 2**-16; it saturates."""

ONE = 1 << 16
"""A probability of one."""


class Budget:
    """The unit's state: the buckets and the threshold.

    Attributes
    ----------
    sums : int64 array (BUCKETS,)
        From the smallest error to the largest.
    threshold : int
        A sample is kept if its p_y is below, in units of 2**-16; `NEVER` keeps all.
    """

    def __init__(self):
        self.sums = np.zeros(BUCKETS, np.int64)
        self.threshold = NEVER

    def add(self, probabilities) -> None:
        """Count samples by their p_y, int array of 0 to 65536."""
        errors = ONE - np.asarray(probabilities, np.int64)
        buckets = np.minimum(errors >> BUCKET_BITS, BUCKETS - 1)
        np.add.at(self.sums, buckets, errors * errors >> 16)
        self.sums = np.minimum(self.sums, (1 << SUM_BITS) - 1)

    def choose(self, bound: int) -> int:
        """Set the threshold for a budget of ``bound / 65536`` of the total, and empty the buckets.

        With a bound of zero, or without any error to measure by, all samples stay. Return the
        threshold.
        """
        limit = int(self.sums.sum()) * bound
        skipped = 0
        self.threshold = NEVER
        for bucket, added in enumerate(self.sums.tolist()):
            skipped += added
            if limit and skipped << 16 <= limit:
                self.threshold = ONE + 1 - (bucket + 1 << BUCKET_BITS)
        self.sums[:] = 0
        return self.threshold


def choose_cycles() -> int:
    """Return the cycles from the start of a THRESHOLD descriptor to the earliest start of the next.

    Two to accept it; each walk over the buckets takes one more than there are; 16 to multiply.
    """
    return 2 + 2 * (BUCKETS + 1) + 16
