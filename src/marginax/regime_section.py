"""The section of a configuration that says which signals move margins, by how much and how fast."""

from typing import Literal

from pydantic import Field, model_validator

from marginax.sections import Section

Direction = Literal["high", "low", "both"]


class RegimeSignal(Section):
    """One signal: which of its values are dangerous, how much it counts, and what it speaks of."""

    direction: Direction = Field("high", description="what is dangerous: high values, low ones, or both extremes")
    weight: float = Field(1.0, ge=0, le=1000, description="weight among the signals of an underlying")
    underlyings: tuple[str, ...] = Field((), strict=False, description="underlyings that it speaks of; none: all")


class Regime(Section):
    """A bounded multiplier of margins from sentiment, crowding and liquidity (the table `signals`)."""

    most: float = Field(1.0, ge=1, le=10, description="multiplier where every signal is at its worst; 1: never above 1")
    least: float = Field(1.0, gt=0, le=1, description="multiplier where every signal is at its calmest; 1: never below")
    window_days: float = Field(365.0, ge=5, le=3650, description="trading days of the past that a value is ranked in")
    least_observations: int = Field(
        60, ge=2, le=10_000, description="values in that window below which a signal counts as not known"
    )
    stale_after_days: float = Field(3.0, ge=0, le=365, description="age of a value that changes nothing")
    worst_age_days: float = Field(
        14.0, gt=0, le=3650, description="age at which a value counts as the worst, as one that is not known does"
    )
    rise_limit: float = Field(
        0.1, gt=0, le=10, description="largest rise of the multiplier in a trading day, 0.1: 10 %"
    )
    fall_limit: float = Field(0.05, gt=0, lt=1, description="largest fall in a trading day, 0.05: 5 %")
    signals: dict[str, RegimeSignal] = Field(
        {}, description="tables [regime.signals.NAME] {direction, weight, underlyings} by name in the table `signals`"
    )

    @model_validator(mode="after")
    def _complete(self) -> "Regime":
        if self.stale_after_days >= self.worst_age_days:
            raise ValueError(
                f"`stale_after_days` {self.stale_after_days:g} is not below `worst_age_days` {self.worst_age_days:g}; "
                "shorten it"
            )
        if self.on and not any(signal.weight for signal in self.signals.values()):
            raise ValueError("`most` or `least` is set, and no signal has a weight; add a table [regime.signals.NAME]")
        return self

    @property
    def on(self) -> bool:
        """Whether the multiplier can be anything but one."""
        return self.most > 1 or self.least < 1

    @property
    def names(self) -> tuple[str, ...]:
        """The signals, in the order of weights."""
        return tuple(sorted(self.signals))
