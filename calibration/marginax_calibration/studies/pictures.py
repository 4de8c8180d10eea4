"""The pictures of a study: margins through a crisis, cost against uncovered loss, and answers to a step in volatility.

They need the extra `report` (altair, vl-convert-python).
"""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import altair as alt
import polars as pl

WIDTH, HEIGHT, SCALE = 640, 320, 2
# One colour a model, told apart by the colour-blind: Okabe and Ito.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")


def margin_through(
    daily: pl.DataFrame, portfolio: str, dates: tuple[date, date], models: Sequence[str], to: Path
) -> None:
    """What each model charged for a portfolio, and what it lost, day by day."""
    rows = daily.filter((pl.col("portfolio") == portfolio) & pl.col("date").is_between(*dates))
    margins = (
        alt.Chart(rows.select("date", "model", "charged"))
        .mark_line(interpolate="step")
        .encode(
            x=alt.X("date:T", title=None),
            y=alt.Y("charged:Q", title="share of gross notional", axis=alt.Axis(format="%")),
            color=_colours(models),
        )
    )
    losses = rows.filter((pl.col("model") == models[0]) & (pl.col("loss") > 0)).select("date", "loss")
    bars = alt.Chart(losses).mark_bar(color="#bbbbbb").encode(x="date:T", y="loss:Q")
    _save(alt.layer(bars, margins).properties(title=f"{portfolio}: losses (bars) and margins"), to)


def through_crisis(
    daily: pl.DataFrame, portfolios: Sequence[str], dates: tuple[date, date], models: Sequence[str], to: Path
) -> None:
    """What each model charged for each portfolio, and what it lost, day by day: one panel a portfolio."""
    inside = pl.col("portfolio").is_in(list(portfolios)) & pl.col("date").is_between(*dates)
    rows = daily.filter(inside).select("date", "portfolio", "model", "charged", "loss")
    x = alt.X("date:T", title=None, axis=alt.Axis(tickCount=4))
    y = alt.Y("charged:Q", title=None, axis=alt.Axis(format="%"))
    base = alt.Chart(rows)
    margins = base.mark_line(interpolate="step-after").encode(x=x, y=y, color=_colours(models))
    losses = base.transform_filter((alt.datum.model == models[0]) & (alt.datum.loss > 0))
    bars = losses.mark_bar(color="#bbbbbb", width=3).encode(x=x, y="loss:Q")
    panel = alt.layer(bars, margins).properties(width=WIDTH / 4, height=HEIGHT / 3)
    facets = panel.facet(facet=alt.Facet("portfolio:N", title=None, sort=list(portfolios)), columns=5)
    _save(facets.resolve_scale(y="independent"), to, sized=False)


def frontier(points: pl.DataFrame, to: Path) -> None:
    """Mean charge of parameter sets and other models against mean uncovered loss and against the score; down and to the
    left is better. Columns name, fitted, charged, uncovered, fz0, rise: the size of a point."""
    x = alt.X("charged:Q", title="mean charged, share of gross notional", axis=alt.Axis(format="%")).scale(zero=False)
    size = alt.Size("rise:Q", title="greatest five-day rise", legend=alt.Legend(format="+.0%"))
    colour = alt.Color("fitted:N", scale=alt.Scale(domain=[True, False], range=[COLOURS[6], COLOURS[1]]), legend=None)
    base = alt.Chart(points)
    panels = []
    for column, title in (("uncovered", "mean uncovered loss, basis points"), ("fz0", "mean FZ0")):
        y = alt.Y(f"{column}:Q", title=title).scale(zero=False)
        dots = base.mark_circle(opacity=1).encode(x=x, y=y, size=size, color=colour)
        words = base.mark_text(align="left", dx=9, dy=-7).encode(x=x, y=y, text="name:N")
        panels.append(alt.layer(dots, words).properties(width=WIDTH * 0.75, height=HEIGHT))
    _save(alt.hconcat(*panels), to, sized=False)


def numbers_through_time(values: pl.DataFrame, to: Path) -> None:
    """Each fitted number by the date that it holds from: columns key, date, value, start."""
    base = alt.Chart(values)
    steps = base.mark_line(interpolate="step-after", point=True, color=COLOURS[6]).encode(
        x=alt.X("date:T", title=None, axis=alt.Axis(tickCount=4)), y=alt.Y("value:Q", title=None).scale(zero=False)
    )
    start = base.mark_rule(strokeDash=[4, 3], color="#888888").encode(y="start:Q")
    panel = alt.layer(start, steps).properties(width=WIDTH / 3, height=HEIGHT / 3)
    _save(panel.facet(facet=alt.Facet("key:N", title=None), columns=3).resolve_scale(y="independent"), to, sized=False)


def cost_and_loss(figures: Mapping[str, Mapping[str, Mapping[str, float]]], models: Sequence[str], to: Path) -> None:
    """Mean charge against mean uncovered loss, by model, one panel a history: down and to the left is better."""
    rows = pl.DataFrame(
        [
            {
                "history": history,
                "model": model,
                "charged": each["mean_charged"],
                "bp": 1e4 * each["mean_uncovered_loss"],
            }
            for history, by_model in figures.items()
            for model, each in by_model.items()
        ],
        schema=["history", "model", "charged", "bp"],
        orient="row",
    )
    near = alt.Scale(zero=False)
    base = alt.Chart(rows).encode(
        x=alt.X("charged:Q", title="mean charge, share of gross", axis=alt.Axis(format="%"), scale=near),
        y=alt.Y("bp:Q", title="mean uncovered loss, bp", scale=near),
        color=_colours(models),
    )
    text = base.mark_text(dx=8, align="left").encode(text="model:N")
    chart = alt.layer(base.mark_point(size=80, filled=True), text).properties(width=WIDTH / 2, height=HEIGHT * 0.75)
    facets = chart.facet(facet=alt.Facet("history:N", title=None, sort=list(figures)), columns=2)
    _save(facets.resolve_scale(x="independent", y="independent"), to, sized=False)


def through_epochs(figures: pl.DataFrame, models: Sequence[str], to: Path) -> None:
    """Figures of each model through time, a panel each: columns time, model, figure, value (USD million)."""
    chart = (
        alt.Chart(figures)
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X("time:T", title=None, axis=alt.Axis(tickCount=4)),
            y=alt.Y("value:Q", title="USD million"),
            color=_colours(models),
        )
    )
    panels = chart.properties(width=WIDTH / 2.5, height=HEIGHT * 0.75)
    order = figures["figure"].unique(maintain_order=True).to_list()
    facets = panels.facet(facet=alt.Facet("figure:N", title=None, sort=order), columns=3)
    _save(facets.resolve_scale(y="independent"), to, sized=False)


def impulse_responses(paths: pl.DataFrame, models: Sequence[str], to: Path) -> None:
    """Mean margin over seeds around a step in volatility, in multiples of its level before; one panel a step."""
    level = paths.filter(pl.col("bar") < 0).group_by("model", "step").agg(pl.col("charged").mean().alias("level"))
    rows = paths.filter((pl.col("bar") >= -100) & (pl.col("bar") % 5 == 0)).join(level, on=["model", "step"])
    scaled = rows.select("bar", "model", "step", (pl.col("charged") / pl.col("level")).alias("multiple"))
    chart = (
        alt.Chart(scaled)
        .mark_line()
        .encode(
            x=alt.X("bar:Q", title="bars after the step"),
            y=alt.Y("multiple:Q", title="multiple of the margin before", scale=alt.Scale(zero=False)),
            color=_colours(models),
        )
        .properties(width=WIDTH / 2, height=HEIGHT * 0.75)
    )
    panels = chart.facet(facet=alt.Facet("step:N", title="volatility steps to so many times what it was"), columns=3)
    _save(panels.resolve_scale(y="independent"), to, sized=False)


def _colours(models: Sequence[str]) -> alt.Color:
    scale = alt.Scale(domain=list(models), range=list(COLOURS[: len(models)]))
    return alt.Color("model:N", scale=scale, sort=list(models), title=None)


def _save(chart: alt.TopLevelMixin, to: Path, *, sized: bool = True) -> None:
    alt.data_transformers.disable_max_rows()
    whole = chart.properties(width=WIDTH, height=HEIGHT) if sized else chart
    whole.save(str(to), scale_factor=SCALE)
