"""The configuration of a run: TOML in, validated before anything heavy is imported.

Every key has a default, a unit and a sentence; `template` writes them all out, commented, for a user to start from.
"""

import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from marginax.problems import BadInput, Problem, suggestion

DEFAULT_MODEL = "expected_shortfall"
_STRESS = """\
# [[scenarios.stress]]
# name = "March 2020"
# from = 2020-03-08
# to = 2020-03-19
# mass = 0.0  # probability of the window; the history keeps the rest"""


class _Section(BaseModel):
    """A frozen table of the configuration; hashable, so that it can be a static field of a traced model."""

    # Strict: text, `true` and 1.5 are no whole numbers; NaN and infinity no numbers at all.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    _digest: int | None = PrivateAttr(None)

    def __hash__(self) -> int:
        if self._digest is None:
            self._digest = hash(self.model_dump_json())
        return self._digest

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__


class Run(_Section):
    """What holds for the whole run."""

    currency: str = Field(
        "USD", min_length=1, description="account currency: index prices are in it and its own price is 1"
    )
    as_of: datetime | None = Field(
        None, strict=False, description="UTC time of the margin; default: the latest quote time"
    )
    seed: int = Field(7, ge=0, description="seed of every random draw")

    @field_validator("as_of", mode="before")
    @classmethod
    def _day_or_time(cls, value: Any) -> Any:
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime(value.year, value.month, value.day)
        if isinstance(value, (bool, int, float)):
            raise ValueError("give a date, or a time such as 2026-01-31T00:00:00Z")
        return value

    @field_validator("as_of")
    @classmethod
    def _utc(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Risk(_Section):
    """The risk measure and the requirement made of it."""

    tail: float = Field(0.01, gt=0, lt=1, description="probability of the tail; 0.01 is 99 %")
    horizon_days: float = Field(1.0, gt=0, le=60, description="trading days that a default takes to close out")
    maintenance_ratio: float = Field(0.8, gt=0, le=1, description="maintenance over initial margin")


class StressWindow(_Section):
    """A named stretch of history, used unscaled."""

    name: str = Field(min_length=1)
    first: date = Field(alias="from", strict=False)
    last: date = Field(alias="to", strict=False)
    mass: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _in_order(self) -> "StressWindow":
        if self.last < self.first:
            raise ValueError(f"`from` {self.first} is after `to` {self.last}; swap them")
        return self


class Scenarios(_Section):
    """Where the scenarios come from and how the past is rescaled."""

    source: Literal["filtered_historical", "historical", "age_weighted"] = Field(
        "filtered_historical",
        description="past returns rescaled to today's volatility, as they were, or aged",
    )
    window: int = Field(2000, ge=2, description="bars of history that become scenarios")
    half_life_days: float = Field(23.0, gt=0, description="trading days, decay of the volatility filter (0.97)")
    age_half_life_days: float = Field(138.0, gt=0, description="trading days, decay of age weights (0.995)")
    volatility_floor: float = Field(
        0.5, ge=0, le=5, description="least volatility of today, as a share of the long-run volatility"
    )
    minimum_volatility: float = Field(
        0.001, gt=0, lt=1, description="daily volatility of a price that never moved, relative"
    )
    denominator_floor: float = Field(
        0.25, ge=0, le=5, description="least volatility a past return is divided by, share of the long run"
    )
    residual_cap: float = Field(15.0, gt=0, description="largest past return, in volatilities of its day")
    least_bars: int = Field(100, ge=2, description="returns below which a factor takes its proxy")
    stale_after_days: float = Field(5.0, gt=0, le=36_500, description="days after which a price or history is stale")
    unusable_after_days: float = Field(
        60.0, gt=0, le=36_500, description="days after which a history counts as none and the proxy takes over"
    )
    stress: tuple[StressWindow, ...] = Field(
        (), strict=False, description="named windows {name, from, to, mass}; mass 0 enters worst cases only"
    )

    @model_validator(mode="after")
    def _masses(self) -> "Scenarios":
        names = [window.name for window in self.stress]
        if len(set(names)) < len(names):
            raise ValueError("two stress windows share a name; give each its own")
        if sum(window.mass for window in self.stress) >= 1:
            raise ValueError("the masses of the stress windows reach 1; leave some to the history")
        return self


class Proxy(_Section):
    """How an underlying without history of its own moves."""

    default: str = Field("BTC", description="underlying that stands in when `underlyings.proxy` names none")
    beta: float = Field(1.5, description="relative move per relative move of the proxy")
    residual: float = Field(1.33, ge=0, description="volatility of the own residual over that of beta x proxy")
    safety_factor: float = Field(1.5, ge=1, description="multiplies the own residual of a factor without history")
    betas: dict[str, float] = Field(
        {"USDT": 0.05, "USDC": 0.05, "DAI": 0.05}, description="beta by underlying, before the one above"
    )


class Basis(_Section):
    """How futures move against their index where no basis history is given."""

    volatility: float = Field(0.002, gt=0, lt=1, description="daily, relative to the price, whatever the expiry")
    annualised_volatility: float = Field(
        0.005, ge=0, lt=5, description="daily move of a dated future's annualised basis, added in quadrature"
    )


class Collateral(_Section):
    """What it costs to turn collateral into money; price moves are in the joint loss already."""

    haircuts: dict[str, float] = Field(
        {}, description="share of an asset's value lost in liquidation or to its peg, by asset"
    )

    @field_validator("haircuts")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        for asset, share in value.items():
            if not 0 <= share <= 1:
                raise ValueError(f"the haircut of {asset} is {share}; give a share between 0 and 1")
        return value


class Engine(_Section):
    """How the book is cut and placed; no key here changes a result by one bit but `precision`."""

    precision: Literal["float32", "float64"] = Field("float32", description="of the cube and its products")
    tile_rows: int = Field(128, ge=64, le=65_536, multiple_of=64, description="accounts in one tile, a multiple of 64")
    streams: int = Field(0, ge=0, le=1_024, description="tiles under way at once; 0 is one for each core or GPU")


class Config(_Section):
    """A whole configuration. `parameters` belongs to models installed from elsewhere."""

    model: str = DEFAULT_MODEL
    run: Run = Run()
    risk: Risk = Risk()
    scenarios: Scenarios = Scenarios()
    proxy: Proxy = Proxy()
    basis: Basis = Basis()
    collateral: Collateral = Collateral()
    engine: Engine = Engine()
    parameters: dict[str, Any] = {}


def load_config(source: str | Path | None = None) -> Config:
    """The configuration in a TOML file or a preset's name; None is every default.

    Raises BadInput that names the file, the key and the remedy: unknown keys, wrong types, values out of range.
    """
    if source is None:
        return Config()
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
        return parse_config(tomllib.loads(text), name)
    except tomllib.TOMLDecodeError as error:
        raise BadInput([Problem(name, None, None, f"is not TOML ({error})", "Mend the line")]) from None


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
        f'model = "{DEFAULT_MODEL}"  # the margin model: a preset, or one that an installed package brings',
    ]
    for name, section in _sections():
        lines += ["", f"# {section.__doc__}", f"[{name}]"]
        for key, field in section.model_fields.items():
            value = field.get_default()
            shown = f"{key} = {_toml(value)}" if value is not None else f"# {key} = 2026-01-31T00:00:00Z"
            lines.append(f"{shown}  # {field.description}")
        lines += _STRESS.splitlines() if name == "scenarios" else []
    # An array of tables cannot follow an inline array of the same name.
    return "\n".join(line for line in lines if not line.startswith("stress =")) + "\n"


def _sections() -> Iterator[tuple[str, type[_Section]]]:
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Section):
            yield name, field.annotation


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return "[]" if value == () else str(value)


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
        if part == "stress" or part.isdigit():
            return ["name", "from", "to", "mass"]
        annotation = section.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        section = annotation
    return list(section.model_fields)
