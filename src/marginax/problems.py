"""What is wrong with an input, said once: where it stands, what was given, what to do.

A door that finds bad rows raises one `BadInput` with all of them, or hands the rows over for quarantine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

SHOWN = 10


@dataclass(frozen=True)
class Problem:
    """One bad cell, row or column of a table, or one bad key of a configuration (`column` then names the key).

    `row` counts data rows from 1; `line` is the line of a text file.
    """

    file: str
    column: str | None
    row: int | None
    what: str
    remedy: str
    table: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = [self.file]
        if self.row is not None:
            place.append(f"row {self.row}" + (f" (line {self.line})" if self.line is not None else ""))
        if self.column is not None:
            place.append(f"column {self.column}" if self.table is not None else f"key {self.column}")
        end = "" if self.remedy.endswith((".", "?")) else "."
        return f"{', '.join(place)}: {self.what}. {self.remedy}{end}"


class BadInput(ValueError):
    """The input cannot be used. `problems` lists what was found, by file and row; `total` counts all of it."""

    def __init__(self, problems: Sequence[Problem], total: int | None = None) -> None:
        self.problems = tuple(problems)
        self.total = len(self.problems) if total is None else total
        lines = [str(problem) for problem in self.problems[:SHOWN]]
        if self.total > SHOWN:
            lines.append(f"... and {self.total - SHOWN:,} more.")
        super().__init__("\n".join(lines))


def suggestion(word: str, known: Sequence[str]) -> str:
    """Half a sentence that names the nearest known word, or lists them all when none is near."""
    plain = {name.lower(): name for name in reversed(known)}
    near = get_close_matches(word.lower(), plain, n=1, cutoff=0.6)
    return f"did you mean `{plain[near[0]]}`?" if near else f"known are {', '.join(f'`{name}`' for name in known)}"
