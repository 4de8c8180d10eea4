"""The sections of a configuration that belong to prices before they are used and to totals before they are written."""

from pydantic import Field

from marginax.sections import Section


class PriceChecks(Section):
    """What makes a price doubtful: a jump from the last good one, where that is given, or a mark far from its index."""

    jump_sigmas: float | None = Field(
        20.0, gt=0, description="largest move from the last good price, in its volatility over the days between"
    )
    jump_share: float | None = Field(
        None, gt=0, examples=[0.5], description="largest move from the last good price, relative; default: any"
    )
    least_jump: float = Field(
        0.2, ge=0, le=10, description="relative move up to which no number of volatilities is a jump (pegs hardly move)"
    )
    volatility_bars: int = Field(250, ge=20, le=100_000, description="last bars that this volatility is measured on")
    mark_share: float = Field(
        0.05,
        gt=0,
        le=10,
        description="difference of a mark from its index, beyond confidence and basis, from which on it is noted",
    )


class Publication(Section):
    """How far totals may move from those of a previous run (where one is given) before results are held back."""

    largest_move: float = Field(
        0.5, gt=0, le=100, description="relative change of total equity, initial or maintenance margin"
    )
