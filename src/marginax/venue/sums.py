"""What the view of a venue is made of, in amounts that add up over books without a common account.

Conventions: a partitioned book has these for each partition, and the view is made of their sum: it is that of the whole
book but for the order in which float64 sums. Money is in account currency; isolated positions are holders of their own.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float64

from marginax.exposures import Exposures
from marginax.match import Matched
from marginax.venue.concentration import Concentration
from marginax.venue.greeks import contracts
from marginax.venue.open_interest import interest_by_instrument, joined_interest
from marginax.venue.positions import Debts, Holders, Positions, debts, holder_states, venue_positions
from marginax.venue_sections import Venue

Losses = Float64[np.ndarray, " scenarios"]
NO_RATIO, WITHOUT_MARGIN = "nothing owed", "without a margin"


@dataclass(frozen=True)
class VenueSums:
    """Sums over the holders of a book.

    `interest` has a row an instrument (`interest_by_instrument`), `bands` holders and gross open interest by margin
    ratio; `uncovered` is the loss beyond equity and `beyond_margins` that beyond margins by scenario, None where it is
    not told. `held` is the margin that accounts hold, min(equity, initial margin) and at least 0 each; `asked` all
    initial margin. `debts` is what holders without a margin owe already. The rest counts holders at risk, those without
    a margin, and rows set aside.
    """

    interest: pl.DataFrame
    concentration: Concentration
    bands: pl.DataFrame
    uncovered: Losses
    beyond_margins: Losses | None
    held: float
    asked: float
    at_risk: int
    without_margin: int
    debts: Debts
    set_aside: int
    unreadable: int

    @classmethod
    def of(
        cls,
        matched: Matched,
        exposures: Exposures,
        margins: pl.DataFrame,
        options: pl.DataFrame,
        uncovered: Losses,
        beyond_margins: Losses | None,
        settings: Venue,
    ) -> "VenueSums":
        """The sums of one book; `margins` has a row a holder, `options` a row an option (`option_table`)."""
        instruments = matched.book.instruments
        holders = holder_states(margins, near_ratio=settings.near_ratio)
        positions = venue_positions(matched, exposures, holders)
        per = contracts(instruments, matched.market, exposures, options)
        equity, initial = (margins[name].fill_null(0.0).to_numpy() for name in ("equity", "initial_margin"))
        return cls(
            interest=interest_by_instrument(instruments, positions, per),
            concentration=Concentration.of(
                matched.book.accounts, instruments.underlying, positions, per, keep=settings.largest
            ),
            bands=_bands(
                holders, positions, np.where(per.open, np.nan_to_num(per.notional), 0.0), settings.ratio_bands
            ),
            uncovered=uncovered,
            beyond_margins=beyond_margins,
            held=float(np.maximum(np.minimum(equity, initial), 0).sum()),
            asked=float(initial.sum()),
            at_risk=int(holders.at_risk.sum()),
            without_margin=int(holders.without_margin.sum()),
            debts=debts(matched, exposures, holders, positions, per),
            set_aside=positions.set_aside,
            unreadable=positions.unreadable,
        )

    def __add__(self, other: "VenueSums") -> "VenueSums":
        """The sums of two books without a common account in one market."""
        beyond = [each for each in (self.beyond_margins, other.beyond_margins) if each is not None]
        return VenueSums(
            interest=joined_interest(self.interest, other.interest),
            concentration=self.concentration + other.concentration,
            bands=self.bands.with_columns(pl.col(name) + other.bands[name] for name in ("holders", "gross")),
            uncovered=self.uncovered + other.uncovered,
            beyond_margins=sum(beyond[1:], beyond[0]) if beyond else None,
            held=self.held + other.held,
            asked=self.asked + other.asked,
            at_risk=self.at_risk + other.at_risk,
            without_margin=self.without_margin + other.without_margin,
            debts=self.debts + other.debts,
            set_aside=self.set_aside + other.set_aside,
            unreadable=self.unreadable + other.unreadable,
        )


def _bands(
    holders: Holders, held: Positions, notional: Float64[np.ndarray, " instruments"], edges: tuple[float, ...]
) -> pl.DataFrame:
    """Holders and gross open interest by margin ratio: from `from` on and below `to` (null: without end), of those
    who owe nothing, and of those without a margin (`who`)."""
    number = np.digitize(holders.ratio, edges)
    number = np.where(np.isnan(holders.ratio), len(edges) + 1, number)
    number = np.where(holders.without_margin, len(edges) + 2, number)
    # What was set aside has no holder: the last place is its own.
    place = np.append(number, len(edges) + 2)[held.holder]
    count = len(edges) + 3
    gross = np.bincount(place, np.abs(held.amount) * notional[held.instrument], minlength=count)
    return pl.DataFrame(
        {
            "who": pl.Series([*[None] * (len(edges) + 1), NO_RATIO, WITHOUT_MARGIN], dtype=pl.String),
            "from": pl.Series([None, *edges, None, None], dtype=pl.Float64),
            "to": pl.Series([*edges, None, None, None], dtype=pl.Float64),
            "holders": np.bincount(number, minlength=count),
            "gross": gross,
        }
    )
