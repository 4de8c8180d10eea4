"""Margin models from elsewhere: five verbs are enough, by object, name or file; and every model has a gradient."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

import marginax as mx
from laws._books import ASSETS, INSTRUMENTS, Holdings, result, venue_market
from laws._books import book as book_of
from laws._history import LISTED, NEW, PERP, configured, holding, paths, venue
from laws._history import market as market_of
from marginax.config import Config
from marginax.cube import InstrumentArrays, MarketArrays, revalue
from marginax.engine.tiles import build, cut
from marginax.exposures import expose
from marginax.history import FactorHistory, factor_history
from marginax.instruments import INVERSE, Instruments
from marginax.models import Margin, MarginModel, Parts, Prepared, Tile, Totals
from marginax.models.expected_shortfall import ExpectedShortfall
from marginax_kernels import accumulate


class Percentage(MarginModel):
    """A share of gross notional, no scenario asked: what static margin tables charge.

    The cube has one scenario in which nothing moves. `shortfall` is what it says in place of an expected shortfall.
    """

    name: str = eqx.field(static=True)
    settings: Config = eqx.field(static=True)
    share: Any
    says_shortfall: bool = eqx.field(static=True, default=True)

    @property
    def part_names(self) -> tuple[str, ...]:
        return ("percentage",)

    def factors(self, market: mx.Market, instruments: Instruments) -> FactorHistory:
        wanted = self.settings
        return factor_history(market, instruments, scenarios=wanted.scenarios, proxy=wanted.proxy, basis=wanted.basis)

    def draw(self, seed: int, history: FactorHistory) -> Any:
        return np.zeros((1, len(history.names)))

    def step(self, state: Any, bar: Any) -> Any:
        return state

    def observe(self, history: FactorHistory) -> Any:
        return None

    def prepare(self, instruments: InstrumentArrays, market: MarketArrays, state: Any, draws: Any) -> tuple[Any, Any]:
        cube = revalue(instruments, market, jnp.asarray(draws))
        price = jnp.append(market.index, 1.0)[instruments.settle]
        per_contract = jnp.where(instruments.style == INVERSE, 1 / market.mark, market.mark)
        notional = instruments.multiplier * per_contract * price
        rows = jnp.concatenate([notional, jnp.zeros(len(market.index) + 1)])
        return Notionals(cube=cube, weights=jnp.ones(1), notionals=rows), jnp.asarray(draws)

    def margin(self, prepared: Any, tile: Tile) -> tuple[Margin, Totals]:
        gross = jnp.sum(prepared.notionals[tile.instruments] * jnp.abs(tile.quantities), axis=1)
        nothing = jnp.full_like(gross, jnp.nan)
        margin = Margin(
            parts=Parts((self.share * gross,), self.part_names),
            maintenance_ratios=(jnp.asarray(0.5),),
            var=nothing,
            expected_shortfall=self.share * gross if self.says_shortfall else nothing,
            std_error=nothing,
            stress_score=nothing,
            worst_scenario=jnp.zeros(gross.shape, jnp.int32),
        )
        return margin, Totals(jnp.zeros((len(gross) // 64, 1)))

    def attribute(self, prepared: Any, tile: Tile) -> Parts:
        own = self.share * prepared.notionals[tile.instruments] * jnp.abs(tile.quantities)
        return Parts((jnp.concatenate([own, jnp.zeros(tile.amounts.shape)], axis=1),), self.part_names)

    def labels(self, history: FactorHistory) -> tuple[str, ...]:
        return ("as it is",)

    def diagnostics(self, history: FactorHistory, state: Any, draws: Any, scenarios: Any) -> Mapping[str, Any]:
        return {"share": float(self.share)}


class Notionals(Prepared):
    notionals: Any


class WorstOf(Percentage):
    """The worst of a few common moves of every price, and a dollar a contract for closing: two parts and two ratios."""

    moves: tuple[float, ...] = eqx.field(static=True, default=(-0.3, -0.1, 0.1, 0.25))

    @property
    def part_names(self) -> tuple[str, ...]:
        return ("worst", "closing")

    def draw(self, seed: int, history: FactorHistory) -> Any:
        is_price = np.arange(len(history.names)) < history.underlyings
        return np.array([np.where(is_price, np.log1p(move), 0.0) for move in self.moves])

    def prepare(self, instruments: InstrumentArrays, market: MarketArrays, state: Any, draws: Any) -> tuple[Any, Any]:
        count = len(self.moves)
        cube = revalue(instruments, market, jnp.asarray(draws))
        return Prepared(cube=cube, weights=jnp.full(count, 1 / count)), jnp.asarray(draws)

    def margin(self, prepared: Prepared, tile: Tile) -> tuple[Margin, Totals]:
        losses = -accumulate(prepared.cube, tile.instruments, tile.quantities)
        worst = jnp.maximum(jnp.max(losses, axis=1), 0)
        closing = jnp.sum(jnp.abs(tile.quantities), axis=1)
        margin = Margin(
            parts=Parts((worst, closing), self.part_names),
            maintenance_ratios=(jnp.asarray(0.75), jnp.asarray(1.0)),
            var=worst,
            expected_shortfall=worst,
            std_error=jnp.full_like(worst, jnp.nan),
            stress_score=jnp.mean(losses > tile.equity[:, None], axis=1, dtype=losses.dtype),
            worst_scenario=jnp.argmax(losses, axis=1),
        )
        return margin, Totals(jnp.zeros((len(worst) // 64, len(self.moves))))

    def labels(self, history: FactorHistory) -> tuple[str, ...]:
        return tuple(f"{move:+.0%}" for move in self.moves)


def percentage(share: float = 0.1, **more: Any) -> Percentage:
    return Percentage(
        name="percentage", settings=configured(scenarios={"least_bars": 2}), share=np.asarray(share), **more
    )


def one(account: dict[str, float], money: dict[str, float] | None = None) -> dict[str, pl.DataFrame]:
    """The tiny venue with one account."""
    quantities = np.array([[account.get(name, 0.0) for name in INSTRUMENTS]])
    amounts = np.array([[(money or {}).get(name, 0.0) for name in ASSETS]])
    return Holdings(quantities, np.full(quantities.shape, np.nan), amounts).tables()


# Long 2 coins at 1,024, short 3 linear contracts of an eighth of a coin at 1,026 USDT, and 8 contracts of 128 dollars
# at 1,023.5: 1.000488 coins of 1,024. USDT is 0.9921875.
HELD = {"BTC-SPOT": 2.0, "BTC-PERP": -3.0, "BTC-COIN": 8.0}
GROSS = 2 * 1_024 + 3 * 0.125 * 1_026 * 0.9921875 + 8 * 128 / 1_023.5 * 1_024


def test_a_model_of_ones_own_margins_a_book() -> None:
    answer = result(one(HELD, {"USD": 1_000.0}), by=percentage())
    row = answer.margins.row(0, named=True)
    # float32: a handful of roundings of 6e-8.
    assert row["initial_margin"] == pytest.approx(0.1 * GROSS, rel=1e-6)
    assert row["maintenance_margin"] == pytest.approx(0.05 * GROSS, rel=1e-6)
    assert row["percentage"] == row["initial_margin"]
    assert row["equity"] == 2 * 1_024 + 1_000
    assert (row["status"], row["model"], row["worst_scenario"]) == ("ok", "percentage", "as it is")
    assert row["var"] is None
    assert row["es_std_error"] is None
    assert answer.parts == ("percentage",)
    assert answer.manifest["scenarios"]["share"] == 0.1
    shares = answer.explain("account 000")
    assert shares.columns == ["account_id", "instrument_id", "asset", "order", "amount", "percentage", "total"]
    assert shares["instrument_id"].to_list() == ["BTC-SPOT", "BTC-COIN", "BTC-PERP"]
    assert shares["total"].sum() == pytest.approx(0.1 * GROSS, rel=1e-6)


def test_a_number_a_model_has_no_notion_of_is_null_and_its_margin_stands() -> None:
    """NaN in a figure that is no part of the requirement says that the model has no such notion."""
    row = result(one(HELD), by=percentage(says_shortfall=False)).margins.row(0, named=True)
    assert row["expected_shortfall"] is None
    assert (row["status"], row["reason"]) == ("ok", None)
    assert row["initial_margin"] == pytest.approx(0.1 * GROSS, rel=1e-6)


def test_a_model_may_have_parts_with_ratios_of_their_own() -> None:
    model = WorstOf(name="worst of", settings=configured(scenarios={"least_bars": 2}), share=np.asarray(0.0))
    tables = one({"BTC-SPOT": -1.0, "ETH-SPOT": 8.0}, {"USD": 820.0})
    row = result(tables, by=model).margins.row(0, named=True)
    # 8 x 32 USDT of ETH are 254 dollars and move as dollars do, whatever USDT does.
    losses = {move: 1_024 * move - 254 * move for move in model.moves}
    assert row["equity"] == 820 - 1_024 + 254
    worst = max(losses.values())
    assert row["worst"] == pytest.approx(worst, rel=1e-5)
    assert row["closing"] == 9
    assert row["initial_margin"] == pytest.approx(worst + 9, rel=1e-5)
    assert row["maintenance_margin"] == pytest.approx(0.75 * worst + 9, rel=1e-5)
    assert row["worst_scenario"] == f"{max(losses, key=lambda move: losses[move]):+.0%}"
    assert row["stress_score"] == pytest.approx(sum(loss > row["equity"] for loss in losses.values()) / 4)


def test_a_model_of_ones_own_keeps_the_laws_of_tiles() -> None:
    rng = np.random.default_rng(2)
    held = Holdings(rng.integers(-40, 40, (80, 8)) / 8.0, np.full((80, 8), np.nan), rng.integers(-5, 5, (80, 4)) * 1.0)
    whole = result(held.tables(), by=percentage()).margins
    last = pl.col("account_id") == "account 079"
    alone = {**held.tables(), **{name: held.tables()[name].filter(last) for name in ("positions", "balances")}}
    assert result(alone, by=percentage()).margins.equals(whole.filter(last))


# --- Finding a model ------------------------------------------------------------------------------------------------


def test_a_model_is_loaded_by_name_by_file_by_configuration_or_as_it_is(tmp_path: Path) -> None:
    preset = mx.load_model("expected_shortfall")
    assert isinstance(preset, ExpectedShortfall)
    assert (preset.name, preset.tail) == ("expected_shortfall", 0.01)
    assert mx.load_model().settings == preset.settings
    file = tmp_path / "ours.toml"
    file.write_text('model = "expected_shortfall"\n[risk]\ntail = 0.025\nmaintenance_ratio = 0.7\n')
    for source in (file, str(file)):
        ours = mx.load_model(source)
        assert isinstance(ours, ExpectedShortfall)
        assert (ours.tail, float(ours.maintenance_ratio)) == (0.025, 0.7)
    assert mx.load_model(mx.load_config(file)).settings == ours.settings
    assert mx.load_model(ours) is ours


def test_margin_book_takes_what_load_model_takes(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text("[risk]\ntail = 0.05\n")
    tables = holding(venue(), {"BTC-SPOT": 1.0})
    answers = [
        mx.margin_book(book_of(tables), market_of(tables), each).margins
        for each in (file, str(file), mx.load_config(file), mx.load_model(file))
    ]
    assert all(answer.equals(answers[0]) for answer in answers)
    assert answers[0]["initial_margin"].item() > 0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("expected_shortfal", "did you mean `expected_shortfall`"),
        ("span", "span: is no margin model"),
        ("nowhere.toml", "nowhere.toml"),
        (Config(model="span"), "no preset is called `span`"),
    ],
)
def test_a_model_that_nothing_brings_is_bad_input(source: Any, said: str) -> None:
    with pytest.raises(mx.BadInput, match=said):
        mx.load_model(source)
    with pytest.raises(mx.BadInput, match=said):
        mx.margin_book(book_of(one(HELD)), venue_market(), source)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package installed beside marginax that brings two models, one of which is none."""
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[marginax.models]\nelsewhere = margin_elsewhere:build\nbroken = margin_elsewhere:broken\n"
    )
    (tmp_path / "margin_elsewhere.py").write_text(
        dedent(
            """
            import numpy as np
            from test_protocol import Percentage

            def build(config):
                share = config.parameters.get("share", 0.2)
                return Percentage(name="elsewhere", settings=config, share=np.asarray(share))

            def broken(config):
                return config
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed")
def test_a_model_that_an_installed_package_brings_is_found_by_its_name(tmp_path: Path) -> None:
    assert float(mx.load_model("elsewhere").share) == 0.2  # type: ignore[attr-defined]
    file = tmp_path / "theirs.toml"
    file.write_text('model = "elsewhere"\n[scenarios]\nleast_bars = 2\n[parameters]\nshare = 0.25\n')
    row = mx.margin_book(book_of(one(HELD)), venue_market(), file).margins.row(0, named=True)
    assert row["model"] == "elsewhere"
    assert row["initial_margin"] == pytest.approx(0.25 * GROSS, rel=1e-6)
    with pytest.raises(mx.BadInput, match="not a MarginModel"):
        mx.load_model("broken")


# --- Gradients ------------------------------------------------------------------------------------------------------

MARKETS = {
    "spot": lambda: holding(venue(), {"BTC-SPOT": 1.0, "ETH-SPOT": -4.0}, {"ETH-SPOT": 9.0}),
    "a perpetual without basis history": lambda: holding(
        venue((*LISTED[:3], PERP)), {"BTC-SPOT": 1.0}, {"BTC-PERP": -2.0, "ETH-SPOT": 9.0}
    ),
    "a coin without history": lambda: holding(
        venue(LISTED, underlyings=NEW), {"NEW-SPOT": 100.0}, {"BTC-SPOT": -1.0, "NEWER-SPOT": 300.0}
    ),
    "a coin that misses days": lambda: holding(
        venue(history=[row for k, row in enumerate(paths()) if row["underlying"] != "ETH" or k % 9]),
        {"BTC-SPOT": 1.0, "ETH-SPOT": -4.0}, {"ETH-SPOT": 9.0},
    ),
    "a price that never moved": lambda: holding(
        venue(history=[{**row, "price": 1.0} if row["underlying"] == "USDT" else row for row in paths()]),
        {"BTC-SPOT": 1.0, "USDT-SPOT": 500.0}, {"ETH-SPOT": 9.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("trouble", MARKETS)
@pytest.mark.parametrize("leaf", [pytest.param("half_life_days", marks=pytest.mark.long), "volatility_floor"])
def test_total_shortfall_has_the_slope_of_its_finite_difference(double: None, leaf: str, trouble: str) -> None:
    """Whatever else the market lists: a factor that misses returns must leave no NaN in anybody's slope."""
    # After fifty days of calm a floor of 0.9 binds; none lets the half-life have all its effect.
    floor = 0.9 if leaf == "volatility_floor" else 0.0
    slope_is_a_finite_difference(MARKETS[trouble](), configured(scenarios={"volatility_floor": floor}), leaf)


@pytest.mark.parametrize("leaf", ["proxy_residual", "safety_factor", "age_half_life_days"])
def test_the_other_numbers_of_a_source_have_slopes_too(double: None, leaf: str) -> None:
    source = "age_weighted" if leaf.startswith("age") else "filtered_historical"
    tables = MARKETS["a coin without history"]()
    slope_is_a_finite_difference(tables, configured(scenarios={"source": source}), leaf)


def _home(model: ExpectedShortfall, leaf: str) -> Any:
    """The part of a scenario source that keeps this number."""
    if leaf == "half_life_days":
        return model.source.volatility.model
    return model.source.main if leaf.startswith("age") else model.source.volatility


def slope_is_a_finite_difference(tables: dict[str, pl.DataFrame], config: Config, leaf: str) -> None:
    model, known, held = mx.load_model(config), market_of(tables), book_of(tables)
    assert isinstance(model, ExpectedShortfall)
    history = model.factors(known, held.instruments)
    exposures = expose(held, known, history)
    draws = model.draw(7, history)
    accounts = np.arange(len(held))
    tiles = [build(exposures, part, np.float64) for part in cut(exposures, accounts, tile_rows=64, scenarios=1_000)]

    @jax.jit
    def total(value: jax.Array) -> jax.Array:
        tuned = eqx.tree_at(lambda each: getattr(_home(each, leaf), leaf), model, value)
        prepared, _ = tuned.prepare(exposures.instruments, exposures.market, tuned.observe(history), draws)
        return sum((jnp.sum(tuned.margin(prepared, tile)[0].expected_shortfall) for tile in tiles), jnp.zeros(()))

    now = float(getattr(_home(model, leaf), leaf))
    step = 1e-5 * now if now else 1e-5
    difference = (float(total(jnp.asarray(now + step))) - float(total(jnp.asarray(now - step)))) / (2 * step)
    slope = float(jax.grad(total)(jnp.asarray(now)))
    assert abs(difference) > 1e-3
    # Totals of some hundreds are rounded at 1e-13 and divided by a step of 1e-5 or more; the curvature adds its square.
    assert slope == pytest.approx(difference, rel=1e-5, abs=1e-7)
