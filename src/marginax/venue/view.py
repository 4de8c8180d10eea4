"""The view of a venue: what its accounts add up to, as tables and as the figures of the manifest.

Conventions: all of it follows from `VenueSums`, the scenarios and the market. Accounts without a margin have no
losses in the pass: they count as losing what they owe already and `worst_loss` of their gross notional, and of coins
that they owe, in every scenario, so that no loss of the venue is smaller because a mark is missing. Where something has
no worth at all, losses are those of what is known and may be smaller for it: `complete` is false then, and whatever of
the score is money counts as infinitely much.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from marginax.exposures import Exposures
from marginax.market import Market
from marginax.match import Matched
from marginax.scenarios.sets import ScenarioSet
from marginax.venue.concentration import GROSS
from marginax.venue.losses import against_fund, distribution, known, tail_mean
from marginax.venue.open_interest import interest_by_expiry
from marginax.venue.score import over, score_notes
from marginax.venue.sums import Losses, VenueSums
from marginax.venue.underlyings import by_underlying
from marginax.venue_sections import Venue

# Where the sides differ by no more than this share of both, the book is that of a closed venue: amounts are float64.
CLOSED = 1e-9
# The moves that Greeks at risk are told for: a tenth of the price, a tenth of volatility.
PRICE_MOVE, VOLATILITY_MOVE = 0.1, 0.1


@dataclass(frozen=True)
class VenueView:
    """`open_interest` by underlying, expiry and kind; `underlyings`, `venue.parquet`, with concentration and margins
    that follow open interest; `losses`, the venue's loss beyond equity and beyond margins in each scenario; `notes`,
    all figures by name as in the manifest. `sums` are what it is made of."""

    open_interest: pl.DataFrame
    underlyings: pl.DataFrame
    losses: pl.DataFrame
    notes: Mapping[str, Any]
    sums: VenueSums = field(repr=False)

    @property
    def score(self) -> float:
        """The protocol risk score, in [0, 1)."""
        return float(self.notes["score"]["score"])

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """The tables by the names of their files."""
        return {"venue": self.underlyings, "open_interest": self.open_interest, "venue_losses": self.losses}


def venue_of(
    matched: Matched,
    exposures: Exposures,
    margins: pl.DataFrame,
    options: pl.DataFrame,
    losses: tuple[Losses, Losses | None],
    scenarios: ScenarioSet,
    settings: Venue,
) -> VenueView | None:
    """The view of one book, None where none is asked for; `losses` are those beyond equity and beyond margins."""
    if not settings.report:
        return None
    sums = VenueSums.of(matched, exposures, margins, options, *losses, settings)
    return venue_view(sums, scenarios, matched.market, settings)


def venue_view(sums: VenueSums, scenarios: ScenarioSet, market: Market, settings: Venue) -> VenueView:
    """The view that sums give in a market and under its scenarios."""
    interest = interest_by_expiry(sums.interest)
    shares = sums.concentration.shares()
    underlyings = by_underlying(interest, shares, sums.concentration.net, market, settings)
    lost = pl.col("long_without_margin") + pl.col("short_without_margin")
    worth = pl.when(pl.col("notional").is_finite()).then("notional")
    unmargined = float(sums.interest.select((lost * worth).sum()).item())
    assumed = sums.debts.owed + settings.worst_loss * (unmargined + sums.debts.in_kind)
    beyond_equity = sums.uncovered + assumed
    beyond_margins = None if sums.beyond_margins is None else sums.beyond_margins + assumed
    weights, labels = np.asarray(scenarios.weights, float), scenarios.labels
    resources = settings.insurance_fund + settings.resources
    totals = {name: float(interest[name].sum()) for name in ("open_interest", "short_interest", "imbalance", "at_risk")}
    gross = totals["open_interest"] + totals["short_interest"]
    unvalued = float(interest["unvalued"].sum())
    greeks = _at_risk(sums.interest, underlyings)
    asked = float(underlyings["scaled_margin"].sum())
    follows = any(settings.caps_of(name)[1] > 0 for name in underlyings["underlying"])
    bad = against_fund(beyond_equity, weights, settings.insurance_fund, tail=settings.tail)
    margins_tail = 0.0 if beyond_margins is None else tail_mean(beyond_margins, weights, tail=settings.tail)
    weighted = _mean_concentration(underlyings)
    complete = not (unvalued or sums.unreadable or sums.debts.unknown)

    def money(amount: float) -> float:
        return over(amount if complete else np.nan, resources)

    components = {
        "open_interest": money(max(totals["open_interest"], totals["short_interest"])),
        "expected_bad_debt": money(_number(bad["expected"])),
        "tail_bad_debt": money(_number(bad["at_tail"])),
        "exhaustion": bad["exhaustion_probability"] if complete else 1.0,
        "beyond_fund": money(_number(bad["beyond_fund"]["tail_mean"])),
        "beyond_margins": 0.0 if beyond_margins is None else money(margins_tail),
        "at_risk_share": _share(totals["at_risk"], gross),
        "concentration": weighted,
        "delta_at_risk": money(greeks["delta_loss"]),
        "gamma_at_risk": money(greeks["gamma_loss"]),
        "vega_at_risk": money(greeks["vega_loss"]),
        "margin_shortfall": money(max(asked - sums.asked, 0.0)) if follows else 0.0,
    }
    notes = {
        **{name: known(totals[name]) for name in ("open_interest", "short_interest", "imbalance")},
        "closed": bool(totals["imbalance"] <= CLOSED * gross and not unvalued),
        "at_risk": {
            "below_ratio": settings.near_ratio,
            "holders": sums.at_risk,
            "gross": known(totals["at_risk"]),
            "share": known(_share(totals["at_risk"], gross)),
            **{name: known(loss) for name, loss in greeks.items()},
        },
        "bands": _bands(sums.bands),
        "concentration": {**_whole(shares), "by_underlying": known(weighted)},
        "resources": {
            "insurance_fund": settings.insurance_fund,
            "further": settings.resources,
            "margin_held": known(sums.held),
        },
        "loss_beyond_equity": _distribution(beyond_equity, scenarios, settings),
        "loss_beyond_margins": None if beyond_margins is None else _distribution(beyond_margins, scenarios, settings),
        "bad_debt": {**bad, "complete": complete},
        "open_interest_margin": {
            "asked": known(asked),
            "at_base_fraction": known(float(underlyings["base_margin"].sum())),
            "initial_margin": known(sums.asked),
        }
        if follows
        else {},
        "caps_of_nothing": sorted(
            set(settings.caps) - {*market.underlyings["underlying"], *sums.interest["underlying"]}
        ),
        "not_known": {
            "holders_without_margin": sums.without_margin,
            "gross_without_margin": known(unmargined),
            "counted_as_loss": known(assumed),
            "owed_without_margin": known(sums.debts.owed),
            "owed_in_kind": known(sums.debts.in_kind),
            "debts_not_known": sums.debts.unknown,
            "rows_set_aside": sums.set_aside,
            "rows_unreadable": sums.unreadable,
            "contracts_without_price": known(unvalued),
            "contracts_without_greeks": known(float(interest["without_greeks"].sum())),
        },
        "score": score_notes(components, settings),
    }
    by_scenario = pl.DataFrame(
        {
            "scenario": pl.Series(labels, dtype=pl.String),
            "weight": weights,
            "beyond_equity": beyond_equity,
            "beyond_margins": pl.Series(beyond_margins, dtype=pl.Float64)
            if beyond_margins is not None
            else pl.repeat(None, len(labels), eager=True, dtype=pl.Float64),
        }
    )
    return VenueView(interest, underlyings, by_scenario, notes, sums)


def _distribution(losses: Losses, scenarios: ScenarioSet, settings: Venue) -> dict[str, Any]:
    weights = np.asarray(scenarios.weights, float)
    return distribution(losses, weights, scenarios.labels, tail=settings.tail, quantiles=settings.quantiles)


def _at_risk(interest: pl.DataFrame, underlyings: pl.DataFrame) -> dict[str, float]:
    """What accounts at risk, taken as one, would lose if every price moved by `PRICE_MOVE` against their net delta,
    what gamma adds to that, and what volatility does.

    An option without Greeks counts as all of its underlying. Who is long gamma gains by a move either way, and what is
    gained in one underlying pays for no loss in another.
    """
    gross = pl.col("long_at_risk") + pl.col("short_at_risk")
    blind = interest.filter(pl.col("delta").is_nan() & pl.col("notional").is_finite())
    unseen = float(blind.select((gross * pl.col("notional")).sum()).item())
    amounts = pl.col("net_delta_amount").abs(), (-pl.col("net_gamma_amount")).clip(0), pl.col("net_vega").abs()
    delta, gamma, vega = (float(underlyings.select(amount.sum()).item()) for amount in amounts)
    return {
        "delta_loss": PRICE_MOVE * (delta + unseen),
        # Half of gamma times the square of the move; `net_gamma` is per 1 %.
        "gamma_loss": 0.5 * PRICE_MOVE * (PRICE_MOVE / 0.01) * gamma,
        "vega_loss": VOLATILITY_MOVE * vega,
    }


def _mean_concentration(underlyings: pl.DataFrame) -> float:
    """Herfindahl of the more concentrated side, mean over underlyings weighted by their gross open interest."""
    gross = (underlyings["open_interest"] + underlyings["short_interest"]).to_numpy()
    if not gross.sum() > 0:
        return 0.0
    worst = underlyings.select(pl.max_horizontal("herfindahl_long", "herfindahl_short").fill_null(0.0)).to_series()
    # Open interest beyond float64 has no mean: the greatest counts.
    return float(worst.to_numpy() @ gross / gross.sum()) if np.isfinite(gross.sum()) else float(worst.max())  # type: ignore[arg-type]


def _whole(shares: pl.DataFrame) -> dict[str, Any]:
    """Of the whole venue: accounts, Herfindahl, and the largest shares of gross open interest."""
    found = shares.filter(pl.col("underlying").is_null(), pl.col("side") == GROSS)
    if not found.height:
        return {"accounts": 0, "herfindahl": 0.0, "largest": None, "largest_share": 0.0, "few_share": 0.0}
    names = ("accounts", "herfindahl", "largest", "largest_share", "few_share")
    return found.select(*names).row(0, named=True)


def _bands(bands: pl.DataFrame) -> list[dict[str, Any]]:
    total = float(bands["gross"].sum())
    rows = bands.rename({"gross": "open_interest"}).rows(named=True)
    return [
        {**row, "open_interest": known(row["open_interest"]), "share": known(_share(row["open_interest"], total))}
        for row in rows
    ]


def _share(part: float, whole: float) -> float:
    """A part of a whole, none of nothing; what is beyond float64 is all of it."""
    if not np.isfinite(whole):
        return 1.0
    return part / whole if whole > 0 else 0.0


def _number(figure: float | None) -> float:
    return float("inf") if figure is None else figure
