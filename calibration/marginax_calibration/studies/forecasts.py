"""The study of forecasts: a network against GARCH and HAR on seven coins, and the dynamic margin on the one that wins.

Everything is fitted anew each year on what was known then. A network is used only if its QLIKE on squared returns is
lower, with a Diebold-Mariano p-value below 5 %, than that of GARCH and of every HAR that knows no more than it does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from marginax.scenarios.network_filter import FEATURES, NetworkFilter
from marginax_calibration.forecasts import rivals
from marginax_calibration.forecasts.features import BASE, DailyFeatures, Scaling, daily_features
from marginax_calibration.forecasts.network import Members, Training, course, mean_correction, walk_forward
from marginax_calibration.forecasts.rivals import Forecast
from marginax_calibration.forecasts.scores import by_day, difference_p, qlike, rescaled
from marginax_calibration.replay import Progress
from marginax_calibration.studies.baselines import markdown
from marginax_calibration.studies.dynamic import Settings
from marginax_calibration.studies.histories import SEVEN, read, seven_coins

# The first refit is at this day's close, the first loss that of 1 December 2019, as in the other studies.
FIRST = date(2019, 11, 30)
REFIT_DAYS = 365
# From this day on the closes of the panel are Binance's, before it Yahoo's.
SEAM = date(2025, 2, 20)
SIGNIFICANT = 0.05
RIVALS: dict[str, Callable[[DailyFeatures, Int64[np.ndarray, " refits"]], Forecast]] = {
    "EWMA 0.94": rivals.ewma,
    "two speeds": rivals.two_speed,
    "GARCH(1,1)-t": rivals.garch,
    "HAR on squares": rivals.har_squares,
    "HAR on ranges": rivals.har_ranges,
}
JUDGES = ("GARCH(1,1)-t", "HAR on squares", "HAR on ranges")
RETURNS_ONLY, ALL_SIGNALS = "network on returns", "network on all signals"
# Whom a network has to beat: what knows no more than it.
TO_BEAT = {RETURNS_ONLY: JUDGES[:2], ALL_SIGNALS: JUDGES}


@dataclass(frozen=True)
class Forecasts:
    """Out-of-sample forecasts by model, what they are judged by, and the networks on returns of each refit."""

    features: DailyFeatures
    refits: Int64[np.ndarray, " refits"]
    variance: Mapping[str, Forecast]
    networks: Mapping[str, list[Members]]
    seed: int

    @property
    def judged(self) -> Bool[np.ndarray, "days underlyings"]:
        """Where every model has a forecast and both proxies are known."""
        known = np.isfinite(self.features.next_square) & np.isfinite(self.features.next_range)
        return np.logical_and.reduce([known, *(np.isfinite(each) for each in self.variance.values())])

    def scores(self) -> tuple[dict[str, Float64[np.ndarray, " days"]], dict[str, Float64[np.ndarray, " days"]]]:
        """QLIKE by day, against squared returns and against ranges at their level."""
        where, squares = self.judged, self.features.next_square
        proxies = squares, rescaled(self.features.next_range, squares, where)
        one, other = (
            {name: by_day(qlike(proxy, each), where) for name, each in self.variance.items()} for proxy in proxies
        )
        return one, other

    def qualifies(self, network: str) -> bool:
        """Whether a network beats all that it has to beat, on squared returns."""
        scores, _ = self.scores()
        mine = scores[network]
        return all(
            mine.mean() < scores[rival].mean() and difference_p(mine, scores[rival]) < SIGNIFICANT
            for rival in TO_BEAT[network]
        )


def inputs(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Closes of the seven coins, and their signals (time, name, underlying, value). Raises BadInput without data."""
    return seven_coins(folder), pl.concat([_bars(folder), _funding(folder), _sentiment(folder)])


def run(
    history: pl.DataFrame,
    signals: pl.DataFrame,
    *,
    settings: Training | None = None,
    first: date = FIRST,
    progress: Progress | None = None,
) -> Forecasts:
    """Every rival and both networks, walked forward from the close of `first`, refitted each 365 days."""
    learner = settings or Training()
    features = daily_features(history, signals)
    refits = np.arange(int(np.searchsorted(features.days, np.datetime64(first))), len(features.days) - 1, REFIT_DAYS)
    steps = [*RIVALS, RETURNS_ONLY, ALL_SIGNALS]

    def tell(name: str) -> None:
        if progress is not None:
            progress(name, steps.index(name) + 1, len(steps))

    variance: dict[str, Forecast] = {}
    for name, rival in RIVALS.items():
        variance[name] = rival(features, refits)
        tell(name)
    networks = {}
    for name in (RETURNS_ONLY, ALL_SIGNALS):
        variance[name], networks[name] = _network(name, features, refits, learner)
        tell(name)
    return Forecasts(features, refits, variance, networks, learner.seed)


def table(found: Forecasts) -> str:
    """Scores and p-values in Markdown, a row for each model; a p-value of a model that scores worse says so."""
    squares, ranges = found.scores()
    days, coins = int(found.judged.any(1).sum()), int(found.judged.any(0).sum())
    titles = [
        *("QLIKE, squares", *(f"p, {rival}" for rival in JUDGES)),
        *("QLIKE, ranges", *(f"p, {rival}" for rival in JUDGES), "days", "coins"),
    ]
    rows = {
        name: [
            cell
            for scores in (squares, ranges)
            for cell in (f"{scores[name].mean():.4f}", *(_p(scores, name, rival) for rival in JUDGES))
        ]
        + [f"{days:,}", f"{coins}"]
        for name in squares
    }
    return markdown(titles, rows)


def by_year(found: Forecasts) -> str:
    """QLIKE on squared returns from each refit to the next, in Markdown."""
    where, squares = found.judged, found.features.next_square
    parts = [rows for _, rows in rivals.spans(found.refits, len(where)) if where[rows].any()]
    titles = [f"from {found.features.days[rows.start + 1]}" for rows in parts]
    rows = {
        name: [f"{by_day(qlike(squares[part], each[part]), where[part]).mean():.3f}" for part in parts]
        for name, each in found.variance.items()
    }
    return markdown(titles, rows)


def verdict(found: Forecasts) -> str:
    """A sentence for each network: whether it beats what it has to."""
    lines = []
    for name, others in TO_BEAT.items():
        said = "beats" if found.qualifies(name) else "does not beat"
        which = ", ".join(f"`{rival}`" for rival in others)
        lines.append(f"- `{name}` {said} {which} on QLIKE of squared returns (all, at 5 %; seed {found.seed}).")
    if not found.qualifies(RETURNS_ONLY):
        lines.append(
            f"- `{RETURNS_ONLY}` is the one that a filter can run on: no network is used by the dynamic margin."
        )
    return "\n".join(lines)


def margins(found: Forecasts, weights: Path) -> dict[str, Settings]:
    """The dynamic margin with its own filter, HAR, GARCH, and the network of a file where it qualifies.

    The file holds what was learnt at the first refit, before the first loss.
    """
    plain: dict[str, Settings] = {
        "dynamic": {},
        "HAR": {"filter": {"kind": "har"}},
        "GARCH": {"filter": {"kind": "garch"}},
    }
    if not found.qualifies(RETURNS_ONLY):
        return plain
    return {**plain, "network": {"filter": {"kind": "network", "network": str(weights)}}}


def network_filter_of(found: Forecasts, refit: int) -> NetworkFilter:
    """The network on returns as it was learnt at a refit (-1: the last), for `network_filter.network_text`."""
    features, members = found.features, found.networks[RETURNS_ONLY][refit]
    end = int(found.refits[refit])
    usual, fade = course(mean_correction(members, _own(features)[:end]), np.isfinite(features.base[:end]))
    return NetworkFilter(BASE, members, np.asarray(usual), np.asarray(fade))


def _network(
    name: str, features: DailyFeatures, refits: Int64[np.ndarray, " refits"], settings: Training
) -> tuple[Forecast, list[Members]]:
    """On returns over two speeds, or on all signals over HAR on ranges, aimed at squares and ranges half and half."""
    count = range(len(refits))
    targets = [_target(features, int(refit)) for refit in refits]
    if name == RETURNS_ONLY:
        return walk_forward([_own(features) for _ in count], [features.base for _ in count], targets, refits, settings)
    seen = [Scaling.of(features.values[: refit + 1])(features.values) for refit in refits]
    bases = [rivals.har_ranges(features, refits[k : k + 1], everywhere=True) for k in count]
    return walk_forward(seen, bases, targets, refits, settings)


def _own(features: DailyFeatures) -> Float64[np.ndarray, "days underlyings own"]:
    """What a filter sees; nothing of a day without a return."""
    return np.nan_to_num(features.values[..., : len(FEATURES)])


def _target(features: DailyFeatures, end: int) -> Float64[np.ndarray, "days underlyings"]:
    """Two unbiased proxies have less noise than one; the level of ranges is that of the window."""
    squares, ranges = features.next_square, features.next_range
    before = np.arange(len(squares))[:, None] < end
    known = np.isfinite(squares) & np.isfinite(ranges) & before
    both = (squares + rescaled(ranges, squares, known)) / 2
    return np.where(np.isfinite(both), both, squares)


def _p(scores: Mapping[str, Float64[np.ndarray, " days"]], name: str, rival: str) -> str:
    if name == rival:
        return "-"
    value = difference_p(scores[name], scores[rival])
    worse = " (worse)" if scores[name].mean() > scores[rival].mean() else ""
    return f"{'< 0.001' if value < 0.001 else f'{value:.3f}'}{worse}"


def _bars(folder: Path) -> pl.DataFrame:
    """Ranges and turnover of the seven coins: Yahoo's, from the seam on Binance's at the level of Yahoo's before."""
    name_of = pl.col("symbol").alias("underlying")
    day = pl.col("date").cast(pl.Datetime("us"))
    spread = (pl.col("high").log() - pl.col("low").log()).alias("range")
    old = read(folder, "crypto_daily/yahoo_usd_1d").select(
        day, name_of, spread, volume=pl.col("volume_usd").cast(float)
    )
    turnover = (pl.col("volume") * pl.col("close")).alias("volume")
    new = read(folder, "crypto_daily/binance_1d_2023_2026").select(day, name_of, spread, turnover)
    keys, parts = ["date", "underlying"], ("range", "volume")
    before = old.filter(pl.col("date") < SEAM)
    both = before.join(new, on=keys, suffix="_new")
    levels = both.group_by("underlying").agg((pl.col(each) / pl.col(f"{each}_new")).median() for each in parts)
    after = new.filter(pl.col("date") >= SEAM).join(levels, on="underlying", suffix="_level")
    moved = after.select(*keys, *(pl.col(each) * pl.col(f"{each}_level") for each in parts))
    rows = pl.concat([before, moved]).filter(pl.col("underlying").is_in(SEVEN))
    return _signals(rows.unpivot(index=keys, variable_name="name"))


def _funding(folder: Path) -> pl.DataFrame:
    """What longs of BTC pay on Binance, for all coins: no other has it since 2019."""
    rows = read(folder, "funding_oi/funding_rates").filter(pl.col("venue") == "binance", pl.col("symbol") == "BTC")
    return _market_wide(rows, "time", "funding", "funding_rate")


def _sentiment(folder: Path) -> pl.DataFrame:
    return _market_wide(read(folder, "sentiment/crypto_fear_greed_1d"), "date", "sentiment", "fear_greed")


def _market_wide(rows: pl.DataFrame, time: str, name: str, value: str) -> pl.DataFrame:
    dated = rows.select(date=time, name=pl.lit(name), underlying=pl.lit(None, pl.String), value=value)
    return _signals(dated.with_columns(pl.col("date").cast(pl.Datetime("us"))))


def _signals(rows: pl.DataFrame) -> pl.DataFrame:
    time = pl.col("date").dt.replace_time_zone("UTC").alias("time")
    return rows.select(time, "name", "underlying", pl.col("value").cast(pl.Float64)).drop_nulls("value")
