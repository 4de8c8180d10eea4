"""The record of a replay: what its rows hang on, and what they come to."""

import platform
from importlib.metadata import version
from typing import Any

import polars as pl

from marginax.book import Book
from marginax.engine import LiveMargin
from marginax.engine.figures import finite
from marginax.engine.live_file import numbers_digest
from marginax.epochs.bars import Bars
from marginax.epochs.calls import Policy
from marginax.epochs.files import FORMAT
from marginax.market import Market
from marginax.sections import Engine

PACKAGES = ("marginax", "jax", "numpy", "polars", "pyarrow")


def begun_with(
    book: Book, market: Market, bars: Bars, live: LiveMargin, calls: Policy, engine: Engine | None
) -> dict[str, Any]:
    """Everything that the rows of a replay hang on."""
    model = live.model
    sections = model.settings.model_dump(
        mode="json", exclude={"run", "engine", "replay", "price_checks", "publication"}
    )
    settings = engine or model.settings.engine
    tables = {**book.tables, **market.tables, "bars": bars.table}
    return {
        "format": FORMAT,
        **{f"versions.{name}": version(name) for name in PACKAGES},
        "model": model.name,
        "numbers": numbers_digest(model),
        "seed": live.seed,
        "calls": calls,
        "as_of": market.as_of.isoformat(),
        "currency": market.currency,
        **{f"engine.{name}": getattr(settings, name) for name in ("precision", "dense_width")},
        **{f"configuration.{name}": value for name, value in sections.items()},
        **{f"inputs.{name}": sorted(table.digests.values()) for name, table in tables.items() if table.digests},
    }


def manifest_of(
    book: Book,
    market: Market,
    bars: Bars,
    live: LiveMargin,
    calls: Policy,
    epochs: pl.DataFrame,
    engine: Engine | None,
) -> dict[str, Any]:
    """How the rows came, and what they come to."""
    settings = live.model.settings.model_copy(update={"engine": engine or live.model.settings.engine})
    tables = {**book.tables, **market.tables, "bars": bars.table}
    at = int(epochs["initial_margin"].arg_max() or 0)
    return {
        "format": FORMAT,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "platform": f"{platform.system()} {platform.machine()}",
        "model": live.model.name,
        "seed": live.seed,
        "currency": market.currency,
        "calls": calls,
        "configuration": settings.model_dump(mode="json", by_alias=True, exclude={"run"}),
        "inputs": {name: table.record for name, table in tables.items() if table.digests},
        "epochs": {
            "count": len(bars),
            "begun_at": market.as_of.isoformat(),
            "first": bars.time(0).isoformat(),
            "last": bars.time(len(bars) - 1).isoformat(),
            "rows_not_later_than_the_market": bars.left_out,
            "underlyings_without_bars": list(bars.without),
        },
        "totals": {
            "initial_margin_first": finite(epochs["initial_margin"][0]),
            "initial_margin_highest": finite(epochs["initial_margin"][at]),
            "highest_at": epochs["time"][at].isoformat(),
            "initial_margin_last": finite(epochs["initial_margin"][-1]),
            "new_calls": int(epochs["new_calls"].sum()),
            "new_call": finite(float(epochs["new_call"].to_numpy().sum())),
            "largest_shortfall": finite(float(epochs["shortfall"].to_numpy().max())),
            "written_off": finite(float(epochs["written_off"].to_numpy().sum())),
        },
        "accounts_without_margin": int(epochs["without_margin"].to_numpy().max()),
    }
