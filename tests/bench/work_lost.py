# SPDX-License-Identifier: GPL-2.0-or-later
"""How much work a writer lost, from its own account of how many writes it had done until when."""

import bisect

NSEC = 1e9
# Back at its speed: this part of what it did before, over this time.
BACK = 0.95
BACK_S = 0.25


class Account:
    """Counts of writes over time: [(ns, count), ...]."""

    def __init__(self, samples):
        self.samples = samples
        self._times = [at for at, _ in samples]

    def count_at(self, at_ns):
        """Between two samples the writer is taken to have been even."""
        i = min(max(bisect.bisect(self._times, at_ns), 1), len(self.samples) - 1)
        (left_ns, left), (right_ns, right) = self.samples[i - 1], self.samples[i]
        return left + (right - left) * (at_ns - left_ns) / max(right_ns - left_ns, 1)

    def per_s(self, start_ns, end_ns):
        return (self.count_at(end_ns) - self.count_at(start_ns)) / (end_ns - start_ns) * NSEC

    def back_ns(self, from_ns, before_per_s):
        """When its speed was back: the start of the first time that is fast enough. None if it was not yet."""
        window_ns, step_ns = int(BACK_S * NSEC), int(0.02 * NSEC)
        for at_ns in range(from_ns, self._times[-1] - window_ns, step_ns):
            if self.per_s(at_ns, at_ns + window_ns) >= BACK * before_per_s:
                return at_ns
        return None

    def lost_s(self, from_ns, to_ns, before_per_s):
        """Seconds of work at its usual speed that are missing between two times."""
        return (to_ns - from_ns) / NSEC - (self.count_at(to_ns) - self.count_at(from_ns)) / before_per_s
