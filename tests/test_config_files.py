"""Configurations as files and as values: found, read, written out, compared."""

import json
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from config_texts import WINDOW, load, names, refused
from marginax.config import Config, load_config, parse_config, preset_names, template
from marginax.problems import BadInput
from marginax.sections import Risk, Run, Scenarios, StressWindow

SECTIONS = [
    "run", "risk", "scenarios", "filter", "classes", "correlation", "pegs", "proxy", "basis", "volatility", "options",
    "monte_carlo", "collateral", "stress_period", "dependence", "orders", "correlation_break", "procyclicality",
    "liquidity", "funding", "liquidation", "calls", "oracle", "regime", "score", "limits", "venue", "price_checks",
    "publication", "replay", "engine",
]  # fmt: skip
# Tables of their own, which the template shows as comments.
BLOCKS = {"stress", "events", "grid"}


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


def test_a_file_may_name_a_preset_for_what_it_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('model = "monte_carlo"\n[risk]\ntail = 0.025\n[monte_carlo]\ndraws = 1024\n')
    found, preset = load_config(path), load_config("monte_carlo")
    assert (found.model, found.scenarios) == (preset.model, preset.scenarios)
    assert (found.risk.tail, found.monte_carlo.draws) == (0.025, 1024)
    assert found.monte_carlo.marginals == preset.monte_carlo.marginals


def test_a_preset_asked_for_comes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(template())
    assert load_config(path).scenarios.source == "filtered_historical"
    assert load_config(path, preset="monte_carlo").scenarios.source == "monte_carlo"
    path.write_text("[options]\nstickiness = 0.5\n")
    assert load_config(path, preset="monte_carlo").options.stickiness == 0.5


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
    values = tomllib.loads(template())
    for section in SECTIONS:
        model = type(getattr(Config(), section))
        lines = template().split(f"\n[{section}]\n")[1].split("\n[")[0].split("\n# [[")[0].splitlines()
        for key, field in model.model_fields.items():
            assert field.description, f"{section}.{key} has no sentence"
            assert not field.is_required(), f"{section}.{key} has no default"
            if key in BLOCKS:
                continue
            (line,) = [line for line in lines if line.removeprefix("# ").startswith(f"{key} = ")]
            assert line.endswith(f"  # {field.description}")
        assert set(values[section]) == set(fields(model)) - BLOCKS - {
            key for key, field in model.model_fields.items() if field.default is None
        }


def test_the_stress_of_the_template_may_be_uncommented() -> None:
    text = template()
    start = text.index("# [[scenarios.stress]]")
    block = text[start:].split("\n\n")[0]
    config = parse_config(
        tomllib.loads(text.replace(block, block.removeprefix("# ").replace("\n# ", "\n"))), "template"
    )
    assert [window.name for window in config.scenarios.stress] == ["March 2020"]
    assert [event.name for event in config.scenarios.events] == ["everything falls"]
    assert config.scenarios.grid.volatilities == (-0.25, 0.0, 0.5)


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
