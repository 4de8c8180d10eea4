"""The configuration: every wrong key names file, key and remedy; what is written out is what is the default."""

import json
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from marginax.config import (
    Config,
    Risk,
    Run,
    Scenarios,
    StressWindow,
    load_config,
    parse_config,
    preset_names,
    template,
)
from marginax.problems import BadInput

SECTIONS = ["run", "risk", "scenarios", "proxy", "basis", "collateral", "engine"]
WINDOW = '[[scenarios.stress]]\nname = "crash"\nfrom = 2020-03-08\nto = 2020-03-19\n'


def load(text: str, folder: Path) -> Config:
    path = folder / "marginax.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def refused(text: str, folder: Path) -> BadInput:
    with pytest.raises(BadInput) as caught:
        load(text, folder)
    return caught.value


def names(error: BadInput, folder: Path, key: str | None, *words: str) -> None:
    """The one problem names the file, the key, and says these words."""
    assert error.total == 1, str(error)
    place = f"{folder / 'marginax.toml'}" + ("" if key is None else f", key {key}") + ": "
    assert str(error).startswith(place), str(error)
    for word in words:
        assert word in str(error), str(error)


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
        ("[scenarios]\nsource = 'monte_carlo'", "scenarios.source", '"monte_carlo"'),
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
        ("scenarios.unusable_after_days", "nan"),
        ("proxy.beta", "nan"),
        ("proxy.residual", "-1"),
        ("proxy.safety_factor", "0.99"),
        ("basis.volatility", "0"),
        ("basis.annualised_volatility", "-0.1"),
        ("engine.tile_rows", "100"),
        ("engine.tile_rows", "0"),
        ("engine.streams", "-1"),
    ],
)
def test_a_value_out_of_range_names_its_key_and_the_range(key: str, bad: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    names(refused(f"[{section}]\n{name} = {bad}", tmp_path), tmp_path, key, f"{bad} was given. ", "should")


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
        (WINDOW + WINDOW, "scenarios", "Two stress windows share a name"),
        (WINDOW + "mass = 1.0", "scenarios.stress.0.mass", "1.0 was given"),
        (WINDOW + "mass = -0.1", "scenarios.stress.0.mass", "-0.1 was given"),
        (WINDOW + "mass = nan", "scenarios.stress.0.mass", "nan was given"),
        (
            WINDOW + "mass = 0.5\n" + WINDOW.replace("crash", "other") + "mass = 0.5",
            "scenarios",
            "masses of the stress windows reach 1; leave some to the history",
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


# ---- files ----


def test_no_file_is_every_default(tmp_path: Path) -> None:
    assert load_config() == load_config(None) == load("", tmp_path) == Config()


def test_every_preset_loads_and_names_its_model() -> None:
    assert "expected_shortfall" in preset_names()
    for name in preset_names():
        assert load_config(name).model


def test_the_plain_preset_is_the_default() -> None:
    assert load_config("expected_shortfall") == Config()


def test_a_name_that_is_no_preset_is_told_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"there is no preset `expected-shortfal`.*did you mean `expected_shortfall`\?"):
        load_config("expected-shortfal")


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        load_config(tmp_path / "no.toml")
    assert str(caught.value).startswith(f"{tmp_path / 'no.toml'}: there is no such file. Name a TOML file")


def test_a_folder_is_no_file_and_hides_no_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "x.toml"
    folder.mkdir()
    with pytest.raises(BadInput, match="cannot be read"):
        load_config(folder)
    (tmp_path / "expected_shortfall").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_config("expected_shortfall") == Config()


def test_a_file_needs_no_ending(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("[risk]\ntail = 0.05")
    assert load_config(path).risk.tail == load_config(str(path)).risk.tail == 0.05


@pytest.mark.parametrize("text", ["x = ", "[risk\ntail = 1", "[risk]\ntail = 0.1\ntail = 0.2", "tail: 0.1", "{}"])
def test_what_is_not_toml_says_where(text: str, tmp_path: Path) -> None:
    names(refused(text, tmp_path), tmp_path, None, "is not TOML (", "Mend the line")


def test_text_in_another_encoding_is_refused_and_a_byte_order_mark_is_not(tmp_path: Path) -> None:
    path = tmp_path / "marginax.toml"
    path.write_bytes("[risk]\ntail = 0.05".encode("utf-16"))
    with pytest.raises(BadInput, match="UTF-8"):
        load_config(path)
    path.write_bytes("[risk]\r\ntail = 0.05\r\n".encode("utf-8-sig"))
    assert load_config(path).risk.tail == 0.05


# ---- what is written out ----


def fields(section: type[BaseModel]) -> list[str]:
    return list(section.model_fields)


def test_the_template_changes_nothing() -> None:
    assert parse_config(tomllib.loads(template()), "template") == Config()


def test_the_template_has_every_key_once_with_its_default_and_its_sentence() -> None:
    lines = template().splitlines()
    values = tomllib.loads(template())
    for section in SECTIONS:
        model = type(getattr(Config(), section))
        for key, field in model.model_fields.items():
            assert field.description, f"{section}.{key} has no sentence"
            assert not field.is_required(), f"{section}.{key} has no default"
            if key == "stress":
                continue
            (line,) = [line for line in lines if line.removeprefix("# ").startswith(f"{key} = ")]
            assert line.endswith(f"  # {field.description}")
        assert set(values[section]) == set(fields(model)) - {"as_of", "stress"}


def test_the_stress_window_of_the_template_may_be_uncommented() -> None:
    text = template()
    start = text.index("# [[scenarios.stress]]")
    block = text[start:].split("\n\n")[0]
    config = parse_config(
        tomllib.loads(text.replace(block, block.replace("# ", "", 5).replace("\n# ", "\n"))), "template"
    )
    assert [window.name for window in config.scenarios.stress] == ["March 2020"]


def test_every_section_of_the_configuration_is_tried_here() -> None:
    assert set(Config.model_fields) == {*SECTIONS, "model", "parameters"}


def test_a_configuration_written_to_json_reads_back_the_same(tmp_path: Path) -> None:
    """A manifest repeats its run."""
    config = load("[run]\nas_of = 2026-01-31\n" + WINDOW + "mass = 0.1\n[collateral.haircuts]\nBTC = 0.1", tmp_path)
    written = json.dumps(config.model_dump(mode="json", by_alias=True))
    assert parse_config(json.loads(written), "manifest.json") == config


# ---- equality ----


def test_equal_configurations_have_one_hash_and_others_differ() -> None:
    assert Config() == Config()
    assert hash(Config()) == hash(Config())
    changed = [
        Config(risk=Risk(tail=0.02)),
        Config(run=Run(seed=8)),
        Config(scenarios=Scenarios(window=500)),
        Config(parameters={"a": 1}),
        Config(model="other"),
    ]
    for config in changed:
        assert config != Config()
        assert hash(config) != hash(Config())
    assert len({Config(), Config(), *changed}) == 1 + len(changed)
    assert Risk() != Run()


def test_a_hash_taken_early_changes_no_equality() -> None:
    """The hash is kept aside: it is no part of what a configuration says."""
    known, fresh = Risk(), Risk()
    hash(known)
    assert known == fresh
    assert known.model_dump() == fresh.model_dump()


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Config().risk.tail = 0.5  # type: ignore[misc]


def test_a_window_may_be_built_in_code() -> None:
    given: dict[str, Any] = {"name": "a", "from": date(2020, 1, 1), "to": date(2020, 2, 1)}
    assert StressWindow(**given) == StressWindow.model_validate(given)
    assert hash(StressWindow(**given)) == hash(StressWindow.model_validate(given))
