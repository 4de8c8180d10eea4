"""The study of the stress score: of accounts scored 5 %, did 5 % fail? Venue portfolios and real accounts, replayed.

Portfolios are the linear ones of the other studies, each at eight levels of equity; real accounts keep the equity
over gross notional that they had, and are replayed with half and a quarter of it too.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from marginax.engine.bands import BANDS
from marginax.models import MarginModel
from marginax.score_sections import Score
from marginax_calibration.calendar_groups import calendar_groups
from marginax_calibration.portfolios import LINEAR_KINDS, venue_portfolios
from marginax_calibration.prices import read_prices
from marginax_calibration.reliability import EDGES, Reliability, reliability
from marginax_calibration.replay import Progress
from marginax_calibration.score_replay import replay_scores
from marginax_calibration.studies.histories import HISTORIES
from marginax_calibration.studies.score_accounts import account_history, account_portfolios

MODELS = ("hs", "fhs", "dynamic")
# Equity over gross notional: leverage from 100 to 3.
EQUITIES = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3)
# Shares of their equity that real accounts are replayed with.
SHARES = (1.0, 0.5, 0.25)
FIRST = {"seven coins": date(2018, 12, 1), "crypto": date(2018, 12, 1), "wide crypto": date(2019, 12, 1)}
ACCOUNTS = "real accounts"
NAMES = (*FIRST, ACCOUNTS)


def run(
    name: str, models: Mapping[str, MarginModel], folder: Path, *, progress: Progress | None = None
) -> tuple[pl.DataFrame, int]:
    """The scores of one set of accounts on its history, day by day, and how many accounts there are.

    Raises BadInput where the data is not there.
    """
    first = None
    if name == ACCOUNTS:
        history = account_history(folder)
        portfolios, own = account_portfolios(folder, history)
        equity = own[:, None] * np.array(SHARES)
        prices = read_prices(history)
    else:
        prices = read_prices(HISTORIES[name](folder))
        portfolios = [each for each in venue_portfolios(prices.names) if each.kind in LINEAR_KINDS]
        equity = np.tile(EQUITIES, (len(portfolios), 1))
        first = np.datetime64(FIRST[name], "us")
    place = {each.name: k for k, each in enumerate(portfolios)}
    parts = []
    for group in calendar_groups(prices, portfolios):
        own = equity[[place[each.name] for each in group.portfolios]]
        parts.append(replay_scores(models, group.panel, group.portfolios, own, first_time=first, progress=progress))
    return pl.concat(parts), len(portfolios)


def judged(daily: pl.DataFrame, edges: Sequence[float] = EDGES) -> dict[str, Reliability]:
    """The reliability of each model, in bins between these edges."""
    found = {}
    for model in daily["model"].unique(maintain_order=True):
        mine = daily.filter(pl.col("model") == model)
        day = mine["date"].rank("dense").to_numpy().astype(np.int64)
        found[model] = reliability(day, mine["score"].to_numpy(), mine["failed"].to_numpy(), edges=edges)
    return found


def report(name: str, daily: pl.DataFrame, accounts: int) -> str:
    """Reliability of each model by bin, and the Brier scores beside one another, as Markdown."""
    found = judged(daily)
    first, last = (str(daily["date"].sort()[place]) for place in (0, -1))
    parts = [f"### {name}: {accounts} portfolios, {first} to {last}", brier_table(found)]
    parts += [f"`{model}`:\n\n{bin_table(each.bins)}" for model, each in found.items()]
    parts.append(f"By band of the defaults:\n\n{band_table(judged(daily, (0.0, *Score().thresholds.values(), 1.0)))}")
    if name == ACCOUNTS:
        own = daily.filter(pl.col("equity") == pl.col("equity").max().over("portfolio"))
        parts.append(f"With the equity they had:\n\n{brier_table(judged(own))}")
    return "\n\n".join(parts) + "\n"


def brier_table(found: Mapping[str, Reliability]) -> str:
    """Failures in all and what was scored, and the Brier score with its parts, a row for each model."""
    titles = ("model", "rows", "mean score", "failed", "95 % interval", "Brier", "reliability", "resolution",
              "uncertainty", "skill", "95 % interval")  # fmt: skip
    rows = [
        [
            f"`{model}`", f"{each.rows:,}", _share(each.mean_score), _share(each.failed),
            _between(*each.failed_interval), f"{each.brier:.5f}", f"{each.reliability:.6f}", f"{each.resolution:.5f}",
            f"{each.uncertainty:.5f}", f"{each.skill:.1%}", _between(*each.skill_interval),
        ]
        for model, each in found.items()
    ]  # fmt: skip
    return _markdown(titles, rows)


def bin_table(bins: pl.DataFrame) -> str:
    """A row for each bin of scores."""
    titles = ("score", "rows", "days", "days with failures", "mean score", "failed", "95 % interval", "within")
    rows = [
        [
            f"{each['low_edge']:.1%} to {each['high_edge']:.1%}", f"{each['rows']:,}", f"{each['days']:,}",
            f"{each['failing_days']:,}", _share(each["mean_score"]), _share(each["failed"]),
            _between(each["low"], each["high"]), "yes" if each["consistent"] else "no",
        ]
        for each in bins.iter_rows(named=True)
    ]  # fmt: skip
    return _markdown(titles, rows)


def band_table(found: Mapping[str, Reliability]) -> str:
    """What was scored and what failed in each band, a row for each model and band."""
    titles = ("model, band", "rows", "days with failures", "mean score", "failed", "95 % interval")
    named = dict(zip((0.0, *Score().thresholds.values()), BANDS, strict=True))
    rows = [
        [
            f"`{model}` {named[one['low_edge']]}", f"{one['rows']:,}", f"{one['failing_days']:,}",
            _share(one["mean_score"]), _share(one["failed"]), _between(one["low"], one["high"]),
        ]
        for model, each in found.items()
        for one in each.bins.iter_rows(named=True)
    ]  # fmt: skip
    return _markdown(titles, rows)


def _between(low: float, high: float) -> str:
    return f"{_share(low)} to {_share(high)}"


def _share(number: float) -> str:
    """A probability in per cent, small ones with a digit more."""
    return f"{number:.2%}" if number >= 0.01 else f"{number:.3%}"


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = f"| {' | '.join(titles)} |\n|---|{'---:|' * (len(titles) - 1)}"
    return "\n".join([head, *(f"| {' | '.join(cells)} |" for cells in rows)])
