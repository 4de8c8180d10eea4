"""The exit codes of every command."""

from enum import IntEnum

from marginax.interrupts import INTERRUPTED


class Exit(IntEnum):
    """Exit codes: everything has a margin; an error of marginax's own; bad input; some accounts have none; totals moved
    too far to be published; Ctrl-C."""

    SUCCESS = 0
    INTERNAL = 1
    BAD_INPUT = 2
    EXCEPTED = 3
    NOT_PUBLISHED = 4
    INTERRUPTED = INTERRUPTED


EXIT_CODES = (
    "0 success, 1 internal error, 2 bad input, 3 some accounts have no margin, 4 totals moved too far to be published, "
    "130 interrupted"
)
