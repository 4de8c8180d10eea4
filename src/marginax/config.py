"""The configuration of a run: TOML in, validated before anything heavy is imported.

Every key has a default, a unit and a sentence; `template` writes them all out, commented, for a user to start from.
"""

import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from marginax.charge_sections import (
    CorrelationBreak,
    Dependence,
    Limits,
    Liquidity,
    Oracle,
    Orders,
    Procyclicality,
    StressPeriod,
)
from marginax.market_sections import AssetClasses, ClassParameters, Correlation, Filter, Pegs, check_filter_weights
from marginax.payment_sections import Calls, Funding, Liquidation
from marginax.price_sections import PriceChecks, Publication
from marginax.problems import BadInput, Problem, suggestion
from marginax.regime_section import Regime, RegimeSignal
from marginax.score_sections import Score
from marginax.sections import (
    Basis,
    Collateral,
    Engine,
    MonteCarlo,
    Options,
    Proxy,
    Replay,
    Risk,
    Run,
    Scenarios,
    Section,
    StressEvent,
    Volatility,
)
from marginax.venue_sections import Venue

DEFAULT_MODEL = "expected_shortfall"
# Tables of their own in TOML, which the template shows as comments below their section.
_BLOCKS = {("scenarios", "stress"), ("scenarios", "events"), ("scenarios", "grid")}
_STRESS = """\
# [[scenarios.stress]]
# name = "March 2020"
# from = 2020-03-08
# to = 2020-03-19
# mass = 0.0  # probability of the window; the other scenarios keep the rest
# [[scenarios.events]]
# name = "everything falls"
# moves = {BTC = -0.3, ETH = -0.4}  # relative; price units where an underlying is shocked absolutely
# others = -0.5  # of underlyings that are not named; without it each follows its proxy, or stands still
# volatility = 1.0  # relative move of implied volatility; 1.0 doubles it
# mass = 0.0
# [scenarios.grid]
# prices = [-0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15]
# volatilities = [-0.25, 0.0, 0.5]"""

_CLASSES = """\
# [classes.parameters.majors]  # any of: half_life_days, fast_half_life_days, slow_half_life_days, fast_share, alpha,
# fast_half_life_days = 5.0    # beta, daily, weekly, monthly, bound, volatility_floor, denominator_floor, residual_cap
# haircut = 0.02               # share of the value lost in liquidation, where [collateral] says nothing of the asset
# liquidation_fee = 0.01       # share of the notional that is closed, as in [liquidation]
# jump_rate = 0.3              # losses of the peg a year, and jump_size, the relative fall
# falls_with_pegs = 0.05       # relative fall of the others of this class when any peg is lost"""

_SIGNALS = """\
# [regime.signals.sentiment]  # a name in the table `signals`
# direction = "low"           # what is dangerous: "high" values, "low" ones, or "both" extremes
# weight = 1.0
# underlyings = ["BTC"]       # of what it speaks; left out: of all"""


class Config(Section):
    """A whole configuration. `parameters` belongs to models installed from elsewhere."""

    model: str = DEFAULT_MODEL
    run: Run = Run()
    risk: Risk = Risk()
    scenarios: Scenarios = Scenarios()
    filter: Filter = Filter()
    classes: AssetClasses = AssetClasses()
    correlation: Correlation = Correlation()
    pegs: Pegs = Pegs()
    proxy: Proxy = Proxy()
    basis: Basis = Basis()
    volatility: Volatility = Volatility()
    options: Options = Options()
    monte_carlo: MonteCarlo = MonteCarlo()
    collateral: Collateral = Collateral()
    stress_period: StressPeriod = StressPeriod()
    dependence: Dependence = Dependence()
    orders: Orders = Orders()
    correlation_break: CorrelationBreak = CorrelationBreak()
    procyclicality: Procyclicality = Procyclicality()
    liquidity: Liquidity = Liquidity()
    funding: Funding = Funding()
    liquidation: Liquidation = Liquidation()
    calls: Calls = Calls()
    limits: Limits = Limits()
    oracle: Oracle = Oracle()
    score: Score = Score()
    venue: Venue = Venue()
    regime: Regime = Regime()
    price_checks: PriceChecks = PriceChecks()
    publication: Publication = Publication()
    replay: Replay = Replay()
    engine: Engine = Engine()
    parameters: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _stationary_classes(self) -> "Config":
        for word, own in self.classes.parameters.items():

            def either(key: str, own: ClassParameters = own) -> float:
                value = getattr(own, key)
                return float(getattr(self.filter, key) if value is None else value)

            try:
                check_filter_weights(
                    either("alpha"), either("beta"), [either(k) for k in ("daily", "weekly", "monthly")]
                )
            except ValueError as error:
                raise ValueError(f"in the class `{word}` {error}") from None
        return self


def load_config(source: str | Path | None = None, *, preset: str | None = None) -> Config:
    """The configuration in a TOML file or a preset's name; None is every default.

    Where the file's `model` names a preset, what the file leaves out is the preset's; `preset` comes before the file.
    Raises BadInput that names the file, the key and the remedy: unknown keys, wrong types, values out of range.
    """
    if source is None:
        return load_config(preset) if preset else Config()
    path, name = Path(source), str(source)
    if path.suffix == ".toml" or path.is_file():
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            what = "there is no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
            remedy = f"Name a TOML file in UTF-8, or a preset ({', '.join(preset_names())})"
            raise BadInput([Problem(name, None, None, what, remedy)]) from None
    else:
        text = _preset(name)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput([Problem(name, None, None, f"is not TOML ({error})", "Mend the line")]) from None
    if preset is not None:
        values = merged(values, tomllib.loads(_preset(preset)))
    elif values.get("model") in preset_names() and values["model"] != name:
        base = tomllib.loads(_preset(values["model"]))
        values = merged(base, {**values, "model": base["model"]})
    return parse_config(values, name)


def merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Tables with the keys of others put over them, table by table."""
    found = {**base, **values}
    for key in base.keys() & values.keys():
        if isinstance(base[key], dict) and isinstance(values[key], dict):
            found[key] = merged(base[key], values[key])
    return found


def parse_config(values: Mapping[str, Any], name: str) -> Config:
    """A configuration from the tables of a TOML file called `name`; raises BadInput."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise BadInput([_explain(name, dict(detail)) for detail in error.errors()]) from None


def preset_names() -> list[str]:
    """Names of the presets that come with marginax."""
    folder = resources.files("marginax.models") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def template() -> str:
    """Every key with its default, commented with its sentence and unit: valid TOML that changes nothing."""
    lines = [
        "# The configuration of marginax. Every key may be left out; what is shown is its default.\n",
        f'model = "{DEFAULT_MODEL}"  # an installed model, or a preset for what this file leaves out',
    ]
    for name, section in _sections():
        lines += ["", f"# {section.__doc__}", f"[{name}]"]
        for key, field in section.model_fields.items():
            if (name, key) in _BLOCKS:
                continue
            value = field.get_default()
            shown = f"{key} = {_toml(value)}" if value is not None else f"# {key} = {(field.examples or [''])[0]}"
            lines.append(f"{shown}  # {field.description}")
        lines += {"scenarios": _STRESS, "classes": _CLASSES, "regime": _SIGNALS}.get(name, "").splitlines()
    return "\n".join(lines) + "\n"


def _sections() -> Iterator[tuple[str, type[Section]]]:
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield name, field.annotation


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value)


def _preset(name: str) -> str:
    if name not in preset_names():
        remedy = f"Name a preset, or a TOML file; {suggestion(name, preset_names())}"
        raise BadInput([Problem(name, None, None, f"there is no preset `{name}`", remedy)])
    return (resources.files("marginax.models") / "presets" / f"{name}.toml").read_text(encoding="utf-8")


def _explain(name: str, detail: dict[str, Any]) -> Problem:
    where = [str(part) for part in detail["loc"]]
    key, given = ".".join(where) or None, detail.get("input")
    if detail["type"] == "extra_forbidden":
        homes = [section for section, fields in _sections() if where[0] in fields.model_fields] if not where[1:] else []
        hint = f"write it under [{homes[0]}]" if homes else suggestion(where[-1], _keys_at(where[:-1]))
        return Problem(name, key, None, "is not a key of the configuration", f"Remove it; {hint}")
    if detail["type"] == "missing":
        return Problem(name, key, None, "is missing", "Add it")
    said = str(detail["msg"]).removeprefix("Value error, ").replace("valid tuple", "valid array")
    what = "does not fit" if isinstance(given, (dict, list)) else f"{_toml(given)} was given"
    return Problem(name, key, None, what, said[:1].upper() + said[1:])


def _keys_at(where: list[str]) -> list[str]:
    section: type[BaseModel] = Config
    for part in where:
        if part == "stress":
            return ["name", "from", "to", "mass"]
        if part == "parameters" and section is AssetClasses:
            return list(ClassParameters.model_fields)
        if part == "events":
            return list(StressEvent.model_fields)
        if part == "signals" and section is Regime:
            return list(RegimeSignal.model_fields)
        annotation = section.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        section = annotation
    return list(section.model_fields)
