"""The section of a configuration that says what is told of the venue as a whole."""

from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from marginax.problems import suggestion
from marginax.sections import Section

# What the risk score is made of, and the size of each at which it alone would make the score a half. Sizes are set by
# hand: what a venue would call trouble, not an estimate. Money is in resources of the venue, which come after margins.
SCALES = {
    "open_interest": 50.0,
    "expected_bad_debt": 0.001,
    "tail_bad_debt": 0.05,
    "exhaustion": 0.01,
    "beyond_fund": 0.05,
    "beyond_margins": 0.5,
    "at_risk_share": 0.1,
    "concentration": 0.25,
    "delta_at_risk": 0.5,
    "gamma_at_risk": 0.5,
    "vega_at_risk": 0.5,
    "margin_shortfall": 1.0,
}


class Venue(Section):
    """What all accounts add up to, told beside their margins: open interest, bad debt, a risk score. Changes none."""

    report: bool = Field(False, description="whether it is told")
    insurance_fund: float = Field(0.0, ge=0, description="account currency; pays what accounts lose beyond equity")
    resources: float = Field(
        1e6,
        ge=0,
        description="account currency; what the venue has beside its fund; the risk score measures in both",
    )
    near_ratio: float = Field(1.25, gt=0, description="margin ratio below which an account counts as at risk")
    tail: float = Field(0.01, gt=0, lt=1, description="probability of the tail of bad debt; 0.01 is 99 %")
    quantiles: tuple[float, ...] = Field(
        (0.5, 0.9, 0.95, 0.99, 0.999), strict=False, description="probabilities at which losses of the venue are told"
    )
    ratio_bands: tuple[float, ...] = Field(
        (0.0, 1.0, 1.25, 1.5, 2.0, 5.0), strict=False, description="margin ratios between which open interest is told"
    )
    largest: int = Field(5, ge=1, le=100, description="accounts whose share of open interest is told together")
    beyond_margins: bool = Field(
        True, description="whether losses beyond margins are summed, which takes one more sweep of the book"
    )
    worst_loss: float = Field(
        1.0, ge=0, le=10, description="further loss of accounts without a margin, share of their gross notional"
    )
    base_fraction: float = Field(0.05, gt=0, le=1, description="initial margin fraction at little open interest")
    lower: float = Field(0.0, ge=0, description="open interest at which the fraction begins to rise, account currency")
    upper: float = Field(0.0, ge=0, description="open interest at which the fraction is one; 0: it does not rise")
    caps: dict[str, Annotated[tuple[float, float], Field(strict=False)]] = Field(
        {}, description="`lower` and `upper` of single underlyings: {BTC = [1e9, 2e9]}"
    )
    weights: dict[str, float] = Field(
        {}, description="weight of a component of the risk score where it is not one; 0: left out"
    )
    scales: dict[str, float] = Field(
        {}, description="size of a component that makes the score a half where it is not the usual"
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> "Venue":
        for key in ("quantiles", "ratio_bands"):
            if any(later <= earlier for earlier, later in pairwise(getattr(self, key))):
                raise ValueError(f"`{key}` does not rise; list each number once, from the lowest to the highest")
        if any(not 0 < each < 1 for each in self.quantiles):
            raise ValueError("`quantiles` are probabilities between 0 and 1; 0.99 is the 99 % quantile")
        for name, (lower, upper) in {"": (self.lower, self.upper), **self.caps}.items():
            if lower < 0 or upper < 0 or 0 < upper <= lower or (not upper and lower):
                of = f"of {name} " if name else ""
                raise ValueError(f"`lower` {lower:g} {of}is not below `upper` {upper:g}; 0 and 0 switch the rise off")
        for key in ("weights", "scales"):
            for name, number in getattr(self, key).items():
                if name not in SCALES:
                    raise ValueError(
                        f"`{name}` in `{key}` is no component of the score; {suggestion(name, list(SCALES))}"
                    )
                if number < 0 or (key == "scales" and number == 0):
                    raise ValueError(f"`{name}` in `{key}` is {number:g}; give a number above zero")
        return self

    @property
    def sums_margins(self) -> bool:
        """Whether a pass sums losses beyond margins."""
        return self.report and self.beyond_margins

    def caps_of(self, underlying: str) -> tuple[float, float]:
        """Open interest between which the margin fraction of an underlying rises; (0, 0) where it does not."""
        return self.caps.get(underlying, (self.lower, self.upper))
