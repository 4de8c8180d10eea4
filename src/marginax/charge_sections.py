"""The sections of a configuration that belong to the parts of the `dynamic` margin."""

from typing import Literal

from pydantic import Field, model_validator

from marginax.sections import Section


class StressPeriod(Section):
    """The stressed observations: the most volatile stretch of the history so far, unscaled (EMIR RTS, Article 28)."""

    weight: float = Field(
        0.0, ge=0, le=1, description="w of core = (1 - w) ES + w max(ES, ES over the stretch); 0: off"
    )
    bars: int = Field(250, ge=20, le=10_000, description="consecutive bars of the stretch")


class Dependence(Section):
    """What is denied of the benefit of diversification between underlyings."""

    share: float = Field(0.0, ge=0, le=1, description="share of the benefit that is denied; 0: off")
    against: Literal["comonotone", "independent"] = Field(
        "comonotone", description="the benefit is counted from the worst dependence, or from none (equal weights only)"
    )


class Oracle(Section):
    """What a price costs that is old or uncertain: its confidence, and what it may have done since it was fresh."""

    confidence_weight: float = Field(
        0.0, ge=0, le=100, description="how many times the confidence of a price is charged; 0: not charged"
    )
    z: float = Field(
        0.0, ge=0, le=100, description="standard deviations charged of the move since a price was fresh; 0: not charged"
    )
    grace_minutes: float = Field(5.0, ge=0, le=525_600, description="age of a price that costs nothing")
    worst_age_days: float = Field(
        1.0, gt=0, le=365, description="age that a missing time counts as; no age counts for more"
    )
    worst_confidence: float = Field(
        0.01, ge=0, le=1, description="relative confidence that a missing one counts as; none counts for more"
    )

    @model_validator(mode="after")
    def _in_order(self) -> "Oracle":
        if self.grace_minutes > self.worst_age_days * 1440:
            raise ValueError(
                f"`grace_minutes` {self.grace_minutes:g} is more than `worst_age_days` {self.worst_age_days:g}, so "
                "that no age would cost anything; shorten it"
            )
        return self

    @property
    def on(self) -> bool:
        """Whether anything is charged."""
        return self.confidence_weight > 0 or self.z > 0


class CorrelationBreak(Section):
    """What the margin would be if correlations were those of single windows of the past (PRISMA)."""

    multiplier: float = Field(0.0, ge=0, le=100, description="of the root mean square excess of the windows; 0: off")
    windows: int = Field(4, ge=2, le=64, description="equal windows that the past scenarios are cut into")
    least: float = Field(0.0, ge=0, le=1, description="least charge, share of the expected shortfall")
    most: float = Field(0.25, ge=0, le=1, description="greatest charge, share of the expected shortfall")

    @model_validator(mode="after")
    def _in_order(self) -> "CorrelationBreak":
        if self.least > self.most:
            raise ValueError(f"`least` {self.least:g} is above `most` {self.most:g}; swap them")
        return self


class Orders(Section):
    """What open orders add to the initial margin."""

    cover: bool = Field(False, description="initial margin covers the worst set of fills of all open orders")


class Procyclicality(Section):
    """Tools that keep margins from following the market too closely; they act on each underlying's volatility."""

    buffer: float = Field(
        0.0, ge=0, le=1, description="share added in calm and released in stress (25 %: 0.25); 0: off"
    )
    buffer_half_life_days: float = Field(
        250.0, gt=0, description="trading days, decay of the level that the buffer is measured from"
    )
    floor_years: float = Field(
        0.0, ge=0, le=50, description="years of history whose volatility is the least that counts (10); 0: off"
    )
    rise_limit: float | None = Field(
        None, gt=0, le=10, examples=[0.1], description="largest rise in a trading day, 0.1 is 10 %; default: none"
    )
    fall_limit: float | None = Field(
        None, gt=0, lt=1, examples=[0.05], description="largest fall in a trading day, 0.05 is 5 %; default: none"
    )

    @property
    def on(self) -> bool:
        """Whether any tool is."""
        return self.buffer > 0 or self.floor_years > 0 or self.rise_limit is not None or self.fall_limit is not None


class Liquidity(Section):
    """What closing positions costs: half the spread and fees, impact on the price, and what takes more than a day."""

    spread: float = Field(0.0, ge=0, le=100, description="halves of the spread that are charged (1.0); 0: none")
    fee: float = Field(0.0, ge=0, le=1, description="fee, share of gross notional (0.0005 is 5 bp); 0: none")
    impact: float = Field(
        0.0, ge=0, le=100, description="eta of N eta sigma_day sqrt(N / ADV), against a walk of the order book; 0: off"
    )
    vega_share: float = Field(
        0.0, ge=0, le=10, description="vega a day that the market takes, share of ADV, for its own impact; 0: off"
    )
    expiry_days: tuple[float, ...] = Field(
        (7.0, 30.0, 90.0),
        strict=False,
        description="days to expiry at which a bucket of vega ends",
    )
    participation: float = Field(
        0.0, ge=0, le=1, description="share of ADV that can be sold in a day; what is beyond takes longer; 0: off"
    )
    worst_adv: float = Field(
        1e6, gt=0, description="least ADV that counts, account currency a day; so much where none is known"
    )
    worst_depth: float = Field(
        2e4, gt=0, description="least depth within 50 bp that counts, account currency; so much where none is known"
    )
    worst_spread_bps: float = Field(
        100.0, gt=0, le=10_000, description="largest spread that counts, basis points; so much where none is known"
    )

    @model_validator(mode="after")
    def _rising(self) -> "Liquidity":
        if any(days <= 0 for days in self.expiry_days) or list(self.expiry_days) != sorted({*self.expiry_days}):
            raise ValueError("`expiry_days` are not above zero and rising; list each number of days once")
        if self.vega_share and not self.impact:
            raise ValueError("`vega_share` is set and `impact` is 0; set `impact`, which says how strong it is")
        return self

    @property
    def on(self) -> bool:
        """Whether anything is charged."""
        return any((self.spread, self.fee, self.impact, self.participation))


class Limits(Section):
    """Sizes of an account's net delta in an underlying beyond which `breaches` names it; no margin changes by them."""

    depth_share: float | None = Field(
        None, gt=0, examples=[1.0], description="share of the depth within 50 bp, one side; default: no limit"
    )
    adv_share: float | None = Field(None, gt=0, examples=[0.1], description="share of ADV; default: no limit")
    open_interest_share: float | None = Field(
        None, gt=0, examples=[0.05], description="share of the open interest; default: no limit"
    )
    worst_depth: float = Field(
        2e4, gt=0, description="least depth that counts, account currency; so much where none is known"
    )
    worst_adv: float = Field(1e6, gt=0, description="least ADV that counts; so much where none is known")
    worst_open_interest: float = Field(
        1e6, gt=0, description="least open interest that counts; so much where none is known"
    )

    @property
    def shares(self) -> dict[str, float]:
        """The limits that are set, by the column of `underlyings` that they are a share of."""
        stated = {"depth": self.depth_share, "adv": self.adv_share, "open_interest": self.open_interest_share}
        return {name: share for name, share in stated.items() if share is not None}
