# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured: figures, each a ratio of ours to a reference in the same pair of runs, and the table of them."""

import dataclasses
import statistics


@dataclasses.dataclass
class Figure:
    """One row of the table.

    `reach` is the ratio to be reached, at least (sense ">=") or at most ("<="); None where the figure is only reported.
    Where there is no reference, as for an amount of memory, the ratio is against a limit.
    """

    key: str
    what: str
    reference: str
    unit: str
    sense: str = ""
    reach: float | None = None
    pairs: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)
    missing: str = ""

    def add(self, ours, reference):
        self.pairs.append((ours, reference))

    def note(self, text):
        """Something that the reader of the figure has to know; said once, however often it was noticed."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def ratios(self):
        return [ours / reference for ours, reference in self.pairs if reference]

    @property
    def is_measured(self):
        return bool(self.ratios)

    @property
    def ratio(self):
        return statistics.median(self.ratios)

    @property
    def is_reached(self):
        """None where there is nothing to reach."""
        if self.reach is None or not self.is_measured:
            return None
        return self.ratio >= self.reach if self.sense == ">=" else self.ratio <= self.reach

    def as_json(self):
        result = {"key": self.key, "what": self.what, "reference": self.reference, "unit": self.unit, "notes": self.notes}
        if self.reach is not None:
            result |= {"sense": self.sense, "reach": self.reach}
        if not self.is_measured:
            return result | {"missing": self.missing or "not measured"}
        return result | {
            "ratio": {"median": self.ratio, "min": min(self.ratios), "max": max(self.ratios)},
            "pairs": [{"ours": ours, "reference": reference} for ours, reference in self.pairs],
            "is_reached": self.is_reached,
        }

    def cells(self):
        """The row of the table, as text."""
        reach = f"{self.sense} {self.reach:g}" if self.reach is not None else "-"
        if not self.is_measured:
            return [self.key, self.what, "-", "-", "not measured", "-", "0", reach, "-"]
        ours = statistics.median(ours for ours, _ in self.pairs)
        reference = statistics.median(reference for _, reference in self.pairs)
        return [
            self.key,
            self.what,
            f"{number(ours)} {self.unit}",
            f"{number(reference)} {self.unit} ({self.reference})",
            number(self.ratio),
            f"{number(min(self.ratios))} - {number(max(self.ratios))}",
            str(len(self.ratios)),
            reach,
            {True: "yes", False: "no", None: "-"}[self.is_reached],
        ]


HEADER = ["#", "figure", "livesnap", "reference", "ratio", "min - max", "pairs", "reach", "reached"]


def number(value):
    """Three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.3f}"


def text_table(figures):
    rows = [HEADER, *(figure.cells() for figure in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def markdown_table(figures):
    rows = [HEADER, ["---"] * len(HEADER), *(figure.cells() for figure in figures)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def remarks(figures):
    """What is to be known of single figures, and why some are missing."""
    lines = []
    for figure in figures:
        if not figure.is_measured:
            lines.append(f"- {figure.key}: not measured: {figure.missing or 'no reason known'}.")
        lines += [f"- {figure.key}: {note}." for note in figure.notes]
    return "\n".join(lines)
