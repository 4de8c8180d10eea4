"""The configuration: every wrong key names file, key and remedy; what is written out is what is the default."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from config_texts import WINDOW, load, names, refused
from marginax.config import Config

# ---- keys and values ----


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[risks]\ntail = 0.01", "risks", "risk"),
        ("[RISK]\ntail = 0.01", "RISK", "risk"),
        ("modle = 'expected_shortfall'", "modle", "model"),
        ("[risk]\ntial = 0.01", "risk.tial", "tail"),
        ("[risk]\nhorizon = 1", "risk.horizon", "horizon_days"),
        ("[scenarios]\nhalf_life = 1", "scenarios.half_life", "half_life_days"),
        ("[collateral]\nhaircut = {BTC = 0.1}", "collateral.haircut", "haircuts"),
        ("[engine]\ntile_row = 64", "engine.tile_row", "tile_rows"),
        (WINDOW + "mas = 0.1", "scenarios.stress.0.mas", "mass"),
        (WINDOW + WINDOW.replace("crash", "other") + "untill = 1", "scenarios.stress.1.untill", "known are"),
    ],
)
def test_an_unknown_key_names_the_file_the_key_and_the_nearest_one(
    text: str, key: str, nearest: str, tmp_path: Path
) -> None:
    hint = nearest if nearest == "known are" else f"did you mean `{nearest}`?"
    names(refused(text, tmp_path), tmp_path, key, "is not a key of the configuration. Remove it", hint)


def test_a_key_without_its_section_is_told_where_it_belongs(tmp_path: Path) -> None:
    names(refused("tail = 0.01", tmp_path), tmp_path, "tail", "write it under [risk]")
    names(refused("haircuts = {}", tmp_path), tmp_path, "haircuts", "write it under [collateral]")


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    error = refused("[engine]\ntile_row = 64\n[risk]\nhorizon = 2\ntail = 2", tmp_path)
    assert {problem.column for problem in error.problems} == {"engine.tile_row", "risk.horizon", "risk.tail"}


@pytest.mark.parametrize(
    ("text", "key", "shown"),
    [
        ("[risk]\ntail = '0.01'", "risk.tail", '"0.01"'),
        ("[risk]\ntail = true", "risk.tail", "true"),
        ("[risk]\ntail = 2026-01-01", "risk.tail", "2026-01-01"),
        ("[run]\nseed = '7'", "run.seed", '"7"'),
        ("[run]\nseed = 7.0", "run.seed", "7.0"),
        ("[run]\nseed = true", "run.seed", "true"),
        ("[run]\ncurrency = 5", "run.currency", "5"),
        ("[run]\nas_of = 5", "run.as_of", "5"),
        ("[run]\nas_of = true", "run.as_of", "true"),
        ("[run]\nas_of = 'soon'", "run.as_of", '"soon"'),
        ("[run]\nas_of = 10:30:00", "run.as_of", "10:30:00"),
        ("[scenarios]\nwindow = 2000.0", "scenarios.window", "2000.0"),
        ("[scenarios]\nsource = 'bootstrap'", "scenarios.source", '"bootstrap"'),
        ("[scenarios]\nstress = 5", "scenarios.stress", "5"),
        ("[proxy]\nbetas = {BTC = 'high'}", "proxy.betas.BTC", '"high"'),
        ("[collateral]\nhaircuts = 0.1", "collateral.haircuts", "0.1"),
        ("[engine]\nprecision = 'float16'", "engine.precision", '"float16"'),
        ("risk = 5", "risk", "5"),
        ("model = 5", "model", "5"),
    ],
)
def test_a_value_of_a_wrong_type_names_its_key_and_what_it_should_be(
    text: str, key: str, shown: str, tmp_path: Path
) -> None:
    names(refused(text, tmp_path), tmp_path, key, f"{shown} was given. ")


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("run.seed", "-1"),
        ("run.currency", '""'),
        *[("risk.tail", value) for value in ("0", "1", "-0.01", "nan", "inf")],
        *[("risk.horizon_days", value) for value in ("0", "61", "inf", "nan")],
        *[("risk.maintenance_ratio", value) for value in ("0", "1.01")],
        ("scenarios.window", "1"),
        ("scenarios.half_life_days", "0"),
        ("scenarios.age_half_life_days", "-1"),
        ("scenarios.volatility_floor", "-0.1"),
        ("scenarios.minimum_volatility", "0"),
        ("scenarios.denominator_floor", "6"),
        ("scenarios.residual_cap", "0"),
        ("scenarios.least_bars", "1"),
        ("scenarios.stale_after_days", "0"),
        ("scenarios.stale_after_days", "1e6"),
        ("scenarios.unusable_after_days", "nan"),
        ("scenarios.unusable_after_days", "1e12"),
        ("proxy.beta", "nan"),
        ("proxy.residual", "-1"),
        ("proxy.safety_factor", "0.99"),
        ("basis.volatility", "0"),
        ("basis.annualised_volatility", "-0.1"),
        ("engine.tile_rows", "100"),
        ("engine.tile_rows", "-64"),
        ("engine.streams", "-1"),
    ],
)
def test_a_value_out_of_range_names_its_key_and_the_range(key: str, bad: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    names(refused(f"[{section}]\n{name} = {bad}", tmp_path), tmp_path, key, " was given. ", "should")


@pytest.mark.parametrize("share", ["-0.1", "1.1"])
def test_a_haircut_is_a_share(share: str, tmp_path: Path) -> None:
    error = refused(f"[collateral.haircuts]\nBTC = {share}", tmp_path)
    names(error, tmp_path, "collateral.haircuts", f"The haircut of BTC is {share}; give a share between 0 and 1")
    names(refused("[collateral.haircuts]\nBTC = nan", tmp_path), tmp_path, "collateral.haircuts.BTC", "finite")


# ---- stress windows ----


def test_a_stress_window_is_read_with_its_dates_and_its_mass(tmp_path: Path) -> None:
    (window,) = load(WINDOW + "mass = 0.25", tmp_path).scenarios.stress
    assert (window.name, window.first, window.last, window.mass) == ("crash", date(2020, 3, 8), date(2020, 3, 19), 0.25)
    (quoted,) = load(WINDOW.replace("2020-03-08", "'2020-03-08'"), tmp_path).scenarios.stress
    assert quoted.first == window.first
    (short,) = load(WINDOW.replace("03-19", "03-08"), tmp_path).scenarios.stress
    assert short.first == short.last


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (
            WINDOW.replace("03-19", "03-07"),
            "scenarios.stress.0",
            "`from` 2020-03-08 is after `to` 2020-03-07; swap them",
        ),
        (WINDOW + WINDOW, "scenarios", "Two stress windows or events share a name"),
        (WINDOW + "mass = 1.0", "scenarios.stress.0.mass", "1.0 was given"),
        (WINDOW + "mass = -0.1", "scenarios.stress.0.mass", "-0.1 was given"),
        (WINDOW + "mass = nan", "scenarios.stress.0.mass", "nan was given"),
        (
            WINDOW + "mass = 0.5\n" + WINDOW.replace("crash", "other") + "mass = 0.5",
            "scenarios",
            "masses of the stress windows and events reach 1; leave some",
        ),
        (WINDOW.replace('name = "crash"\n', ""), "scenarios.stress.0.name", "is missing"),
        (WINDOW.replace('"crash"', '""'), "scenarios.stress.0.name", '"" was given'),
        (WINDOW.replace("to = 2020-03-19\n", ""), "scenarios.stress.0.to", "is missing"),
        (
            WINDOW.replace("2020-03-08", "2020-03-08T12:00:00"),
            "scenarios.stress.0.from",
            "2020-03-08 12:00:00 was given",
        ),
        (WINDOW.replace("2020-03-08", "'March'"), "scenarios.stress.0.from", '"March" was given'),
    ],
)
def test_a_stress_window_that_cannot_be_is_refused(text: str, key: str, said: str, tmp_path: Path) -> None:
    names(refused(text, tmp_path), tmp_path, key, said)


def test_a_misspelt_date_of_a_window_is_missing_and_unknown(tmp_path: Path) -> None:
    error = refused(WINDOW.replace("from", "form"), tmp_path)
    assert {problem.column for problem in error.problems} == {"scenarios.stress.0.from", "scenarios.stress.0.form"}
    assert "did you mean `from`?" in str(error)


# ---- as_of ----


@pytest.mark.parametrize(
    "written",
    [
        "2026-01-31",
        "2026-01-31T00:00:00",
        "2026-01-31 00:00:00Z",
        "2026-01-31T01:00:00+01:00",
        "2026-01-30T19:00:00-05:00",
        "'2026-01-31'",
        "'2026-01-31T00:00:00Z'",
    ],
)
def test_as_of_is_utc_whatever_its_zone_and_a_date_is_its_midnight(written: str, tmp_path: Path) -> None:
    as_of = load(f"[run]\nas_of = {written}", tmp_path).run.as_of
    assert as_of == datetime(2026, 1, 31, tzinfo=UTC)
    assert as_of.tzinfo == UTC


def test_without_as_of_there_is_none() -> None:
    assert Config().run.as_of is None
