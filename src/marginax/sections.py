"""The sections of a configuration: every key with its default, its unit and a sentence.

Sections are frozen and hashable, so that they can be static fields of traced models.
"""

from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator


class Section(BaseModel):
    """A frozen table of the configuration; hashable, so that it can be a static field of a traced model."""

    # Strict: text, `true` and 1.5 are no whole numbers; NaN and infinity no numbers at all.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    _digest: int | None = PrivateAttr(None)

    def __hash__(self) -> int:
        if self._digest is None:
            self._digest = hash(self.model_dump_json())
        return self._digest

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__


class Run(Section):
    """What holds for the whole run."""

    currency: str = Field(
        "USD", min_length=1, description="account currency: index prices are in it and its own price is 1"
    )
    as_of: datetime | None = Field(
        None,
        strict=False,
        examples=["2026-01-31T00:00:00Z"],
        description="UTC time of the margin; default: the latest quote time",
    )
    seed: int = Field(7, ge=0, description="seed of every random draw")

    @field_validator("as_of", mode="before")
    @classmethod
    def _day_or_time(cls, value: Any) -> Any:
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime(value.year, value.month, value.day)
        if isinstance(value, (bool, int, float)):
            raise ValueError("give a date, or a time such as 2026-01-31T00:00:00Z")
        return value

    @field_validator("as_of")
    @classmethod
    def _utc(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Risk(Section):
    """The risk measure and the requirement made of it."""

    tail: float = Field(0.01, gt=0, lt=1, description="probability of the tail; 0.01 is 99 %")
    charge_tail: float | None = Field(
        None, gt=0, lt=1, examples=[0.025], description="probability of the tail that is charged; default: `tail`"
    )
    horizon_days: float = Field(1.0, gt=0, le=60, description="trading days that a default takes to close out")
    maintenance_ratio: float = Field(0.8, gt=0, le=1, description="maintenance over initial margin")


class StressWindow(Section):
    """A named stretch of history, used unscaled."""

    name: str = Field(min_length=1)
    first: date = Field(alias="from", strict=False)
    last: date = Field(alias="to", strict=False)
    mass: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _in_order(self) -> "StressWindow":
        if self.last < self.first:
            raise ValueError(f"`from` {self.first} is after `to` {self.last}; swap them")
        return self


class StressEvent(Section):
    """A named move of the market: relative price changes, or price units where an underlying is shocked absolutely."""

    name: str = Field(min_length=1)
    moves: dict[str, float] = Field(min_length=1)
    others: float | None = Field(None, gt=-1)
    volatility: float = Field(0.0, gt=-1)
    mass: float = Field(0.0, ge=0, lt=1)


class Grid(Section):
    """A deterministic grid: every price move with every move of implied volatility, all underlyings together."""

    prices: tuple[float, ...] = Field((), strict=False)
    volatilities: tuple[float, ...] = Field((0.0,), strict=False)

    @model_validator(mode="after")
    def _moves(self) -> "Grid":
        for name in ("prices", "volatilities"):
            moves = getattr(self, name)
            if any(move <= -1 for move in moves):
                raise ValueError(f"`{name}` holds {min(moves)}; a relative move is above -1 (-0.3 is 30 % down)")
            if any(second <= first for first, second in pairwise(moves)):
                raise ValueError(f"`{name}` does not rise; list each move once, from the lowest to the highest")
        if not self.volatilities:
            raise ValueError("`volatilities` is empty; give at least 0.0")
        return self


class Scenarios(Section):
    """Where the scenarios come from and how the past is rescaled."""

    source: Literal["filtered_historical", "historical", "age_weighted", "monte_carlo"] = Field(
        "filtered_historical",
        description="past returns rescaled to today's volatility, as they were, or aged; or draws, see [monte_carlo]",
    )
    window: int = Field(2000, ge=2, description="bars of history that become scenarios")
    half_life_days: float = Field(23.0, gt=0, description="trading days, decay of the volatility filter (0.97)")
    age_half_life_days: float = Field(138.0, gt=0, description="trading days, decay of age weights (0.995)")
    volatility_floor: float = Field(
        0.5, ge=0, le=5, description="least volatility of today, as a share of the long-run volatility"
    )
    minimum_volatility: float = Field(
        0.001, gt=0, lt=1, description="daily volatility of a price that never moved, relative"
    )
    denominator_floor: float = Field(
        0.25, ge=0, le=5, description="least volatility a past return is divided by, share of the long run"
    )
    residual_cap: float = Field(15.0, gt=0, description="largest past return, in volatilities of its day")
    least_bars: int = Field(100, ge=2, description="returns below which a factor takes its proxy")
    stale_after_days: float = Field(5.0, gt=0, le=36_500, description="days after which a price or history is stale")
    unusable_after_days: float = Field(
        60.0, gt=0, le=36_500, description="days after which a history counts as none and the proxy takes over"
    )
    stress: tuple[StressWindow, ...] = Field(
        (), strict=False, description="named windows {name, from, to, mass}; mass 0 enters worst cases only"
    )
    events: tuple[StressEvent, ...] = Field(
        (), strict=False, description="named moves {name, moves, others, volatility, mass}; mass 0: worst cases only"
    )
    grid: Grid = Field(Grid(), description="price x volatility grid {prices, volatilities}; worst cases only")

    @model_validator(mode="after")
    def _masses(self) -> "Scenarios":
        stressed: tuple[StressWindow | StressEvent, ...] = (*self.stress, *self.events)
        names = [each.name for each in stressed]
        if len(set(names)) < len(names):
            raise ValueError("two stress windows or events share a name; give each its own")
        if sum(each.mass for each in stressed) >= 1:
            raise ValueError("the masses of the stress windows and events reach 1; leave some to the other scenarios")
        return self


class Proxy(Section):
    """How an underlying without history of its own moves."""

    default: str = Field("BTC", description="underlying that stands in when `underlyings.proxy` names none")
    beta: float = Field(1.5, description="relative move per relative move of the proxy")
    residual: float = Field(1.33, ge=0, description="volatility of the own residual over that of beta x proxy")
    safety_factor: float = Field(1.5, ge=1, description="multiplies the own residual of a factor without history")
    betas: dict[str, float] = Field(
        {"USDT": 0.05, "USDC": 0.05, "DAI": 0.05}, description="beta by underlying, before the one above"
    )


class Basis(Section):
    """How futures move against their index where no basis history is given."""

    volatility: float = Field(0.002, gt=0, lt=1, description="daily, relative to the price, whatever the expiry")
    annualised_volatility: float = Field(
        0.005, ge=0, lt=5, description="daily move of a dated future's annualised basis, added in quadrature"
    )


class Volatility(Section):
    """How implied volatility moves: log moves of the 30-day volatility, scaled to each expiry."""

    beta: float = Field(
        -1.0, description="log move of implied volatility per relative move of a price, without history (0 if absolute)"
    )
    residual: float = Field(0.06, gt=0, lt=5, description="daily log move of its own on top, without history")
    reference_days: float = Field(30.0, gt=0, description="calendar days to the expiry that moves by the factor itself")
    short_power: float = Field(0.3, ge=0, le=1, description="p of (reference / days)^p up to the reference")
    long_power: float = Field(0.13, ge=0, le=1, description="p beyond the reference")
    shortest_days: float = Field(1.0, gt=0, description="calendar days below which the scaling grows no further")
    cap: float = Field(4.0, gt=1, description="largest multiple of implied volatility, before scaling")


class Options(Section):
    """How options are priced."""

    stickiness: float = Field(
        0.0, ge=0, le=1, description="0: each strike keeps its volatility; 1: volatility moves along with the forward"
    )
    settlement_window_minutes: float = Field(
        0.0, ge=0, le=1440, description="minutes before expiry over which the settlement price is averaged"
    )
    forward_bound: float = Field(
        0.05, gt=0, lt=1, description="largest relative difference of a given forward from that of put-call parity"
    )


class MonteCarlo(Section):
    """Draws of a Student t copula with scrambled Sobol points, for `scenarios.source = "monte_carlo"`."""

    # A multiple of 512 is cut into 16 scrambles or more of at least 32 points, a power of two.
    draws: int = Field(2048, ge=512, le=1_048_576, multiple_of=512, description="scenarios drawn, a multiple of 512")
    scrambles: int | None = Field(
        None,
        ge=8,
        le=256,
        examples=[16],
        description="independent scrambles, which tell the error; default: 16 or more",
    )
    marginals: Literal["t", "normal", "empirical"] = Field(
        "t", description="law of each factor: fitted t, normal, or its own filtered residuals"
    )
    copula_freedom: float | None = Field(
        None, gt=2, le=1_000, examples=[4.0], description="degrees of freedom of the copula; default: fitted"
    )
    marginal_freedom: float | None = Field(
        None,
        gt=2,
        le=1_000,
        examples=[5.0],
        description="degrees of freedom of t marginals; default: fitted per factor",
    )
    correlation_half_life_days: float = Field(250.0, gt=0, description="trading days, decay of the correlations")
    shrinkage: float = Field(0.05, gt=0, lt=1, description="share of the identity in the correlations")
    stretch: float | None = Field(
        None,
        ge=1,
        le=10,
        examples=[2.5],
        description="power that aims draws at the tail; 1 is plain Sobol; default: by the tail",
    )
    price_cap: float = Field(5.0, gt=1, description="largest price multiple over the horizon, up and down")
    price_caps: dict[str, float] = Field({}, description="the same by underlying, before the one above")
    correlations: dict[str, dict[str, float]] = Field(
        {}, description="stated correlations of prices {BTC = {ETH = 0.8}}; the others are estimated"
    )

    @model_validator(mode="after")
    def _points(self) -> "MonteCarlo":
        block, rest = divmod(self.draws, self.scrambles or 1)
        if self.scrambles and (rest or block & (block - 1)):
            points = 2 ** block.bit_length()
            while self.scrambles * points % 512:
                points *= 2
            raise ValueError(
                f"`draws` {self.draws} are not {self.scrambles} scrambles of a power of two; "
                f"take {self.scrambles * points}, or leave `scrambles` out"
            )
        return self

    @field_validator("price_caps")
    @classmethod
    def _multiples(cls, value: dict[str, float]) -> dict[str, float]:
        for name, multiple in value.items():
            if multiple <= 1:
                raise ValueError(f"the price cap of {name} is {multiple}; give a multiple above 1")
        return value

    @field_validator("correlations")
    @classmethod
    def _pairs(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for first, others in value.items():
            for second, number in others.items():
                if first == second or not -1 < number < 1:
                    raise ValueError(f"the correlation of {first} and {second} is {number}; give one inside (-1, 1)")
                if first in value.get(second, {}):
                    raise ValueError(f"the correlation of {first} and {second} is given twice; keep one")
        return value


class Replay(Section):
    """How often a replay of history makes a model anew; a single run always does."""

    refit_bars: int = Field(0, ge=0, le=100_000, description="bars between two refits; 0: nothing is kept")
    refit_years: float = Field(0.0, ge=0, le=100, description="the same in years, before the key above")
    keeps: Literal["laws", "everything"] = Field(
        "laws", description="between refits: what is fitted, or the scenarios and all margins too"
    )
    embargo_bars: int = Field(0, ge=0, le=10_000, description="bars before a refit that it does not look at")


class Collateral(Section):
    """What collateral is not worth when it must be sold; price moves are in the joint loss already."""

    haircuts: dict[str, float] = Field(
        {}, description="share of an asset's value lost in liquidation or to its peg, before that of its class"
    )
    limits: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="value of an asset that counts at most, by asset, in account currency; `dynamic` only"
    )
    sizes: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="value of an asset beyond which its haircut rises, in account currency; `dynamic` only"
    )
    concentration: float = Field(
        0.1, ge=0, le=1, description="rise of the haircut for each further multiple of `sizes`; `dynamic` only"
    )
    wrong_way: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the benefit denied that collateral which hedges nothing has by falling at other times; "
        "`dynamic` only",
    )

    @field_validator("haircuts")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        for asset, share in value.items():
            if not 0 <= share <= 1:
                raise ValueError(f"the haircut of {asset} is {share}; give a share between 0 and 1")
        return value


class Engine(Section):
    """How the book is cut and placed; no key here changes a result by one bit but `precision` and `dense_width`."""

    precision: Literal["float32", "float64"] = Field("float32", description="of the cube and its products")
    tile_rows: int = Field(
        0, ge=0, le=4_096, multiple_of=64, description="accounts in one tile, a multiple of 64; 0 is as many as fit"
    )
    dense_width: int = Field(
        128,
        ge=1,
        description="positions from which on an account is summed as a product of matrices, if in half of all rows",
    )
    streams: int = Field(0, ge=0, le=1_024, description="tiles under way at once; 0 is one for each core or GPU")
