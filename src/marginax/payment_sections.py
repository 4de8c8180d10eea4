"""The sections of a configuration that belong to money that changes hands: funding, liquidation fees and calls.

Rates and fees are shares of notional, amounts are in account currency.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from marginax.sections import Section

Kind = Literal["spot", "perpetual", "future", "call", "put"]


class Funding(Section):
    """What perpetuals pay each other: since the last settlement, and over a horizon."""

    accrued: bool = Field(
        False, description="equity counts what has accrued since the last settlement and is not paid yet (every model)"
    )
    projected: bool = Field(False, description="margin holds what will be paid over a horizon (`dynamic`)")
    hours: float | None = Field(
        None,
        gt=0,
        le=8_760,
        examples=[24.0],
        description="hours that are projected; default: `risk.horizon_days`, of 24 hours each",
    )
    least_rate: float = Field(
        0.0, ge=0, le=1, description="rate a day that long and short pay at least when projected, because rates turn"
    )
    worst_rate: float = Field(
        0.12,
        ge=0,
        le=10,
        description="rate a day that both sides pay where none is known; accrued, the largest quoted if that is more",
    )
    cap: float | None = Field(
        None,
        ge=0,
        le=10,
        examples=[0.01],
        description="largest rate a day that a known one is projected at; default: `worst_rate`",
    )
    worst_interval_hours: float = Field(
        1.0, gt=0, le=168, description="hours between settlements where none are known; the shortest that there are"
    )
    worst_elapsed_hours: float = Field(
        24.0,
        gt=0,
        le=8_760,
        description="hours since a settlement that is not known or late; the longest interval at least",
    )

    @model_validator(mode="after")
    def _in_order(self) -> "Funding":
        if self.cap is not None and self.cap > self.worst_rate:
            raise ValueError(
                f"`cap` {self.cap:g} is above `worst_rate` {self.worst_rate:g}, so that a rate would be cheaper for "
                "not being known; raise `worst_rate`"
            )
        if self.least_rate > self.largest_rate:
            raise ValueError(f"`least_rate` {self.least_rate:g} is above the largest, {self.largest_rate:g}; lower it")
        return self

    @property
    def largest_rate(self) -> float:
        """The largest rate a day that a known one is projected at."""
        return self.worst_rate if self.cap is None else self.cap

    @property
    def on(self) -> bool:
        """Whether anything is counted."""
        return self.accrued or self.projected


class Liquidation(Section):
    """What a venue keeps of an account that it liquidates, in the part `liquidation_fee`."""

    fee: float = Field(0.0, ge=0, le=1, description="share of the gross notional that is closed (0.005 is 50 bp)")
    kinds: dict[Kind, Annotated[float, Field(ge=0, le=1)]] = Field(
        {}, description="the same by kind of instrument (spot, perpetual, future, call, put), before `fee`"
    )
    minimum: float = Field(
        0.0, ge=0, description="least fee of an account or an isolated position that holds anything, account currency"
    )

    @property
    def on(self) -> bool:
        """Whether anything is charged that is not a class's own."""
        return self.fee > 0 or self.minimum > 0 or any(self.kinds.values())


class Calls(Section):
    """What is called of a shortfall and given back of an excess (ISDA Credit Support Annex, paragraph 13)."""

    minimum_transfer: float = Field(
        0.0, ge=0, description="account currency; what is less is neither called nor given back"
    )
    rounding: float = Field(
        0.0, ge=0, description="account currency; calls are rounded up to a multiple, returns down; 0: not rounded"
    )

    @property
    def on(self) -> bool:
        """Whether calls are anything but the shortfall."""
        return self.minimum_transfer > 0 or self.rounding > 0
