"""From a name, a file or a module of one's own to a margin model."""

from importlib.metadata import entry_points
from pathlib import Path

from marginax.config import Config, load_config, preset_names
from marginax.models.protocol import MarginModel
from marginax.problems import BadInput, Problem, suggestion

GROUP = "marginax.models"


def load_model(source: str | Path | Config | MarginModel = "expected_shortfall") -> MarginModel:
    """A margin model: a preset by name, a TOML file, a configuration, or a model as it is.

    A name that is no preset is looked up among the entry points `marginax.models` and built with default settings; an
    entry point is a callable from a `Config` to a model. Raises BadInput for a name that nothing brings.
    """
    if isinstance(source, MarginModel):
        return source
    return _build(source if isinstance(source, Config) else model_config(source))


def model_config(source: str | Path) -> Config:
    """The configuration that a preset's name, an installed model's name or a TOML file stands for."""
    name, presets, installed = str(source), preset_names(), sorted(entry_points(group=GROUP).names)
    if name in presets or name.endswith(".toml") or Path(source).is_file():
        return load_config(source)
    if name in installed:
        return Config(model=name)
    remedy = f"Name a preset, an installed model or a TOML file; {suggestion(name, sorted({*presets, *installed}))}"
    raise BadInput([Problem(name, None, None, "is no margin model", remedy)])


def _build(config: Config) -> MarginModel:
    found = [entry for entry in entry_points(group=GROUP) if entry.name == config.model]
    if not found:
        known = sorted({*preset_names(), *entry_points(group=GROUP).names})
        what = f"no preset is called `{config.model}`, and no installed package brings a model of that name"
        remedy = f"Install one, or change the name; {suggestion(config.model, known)}"
        raise BadInput([Problem("configuration", "model", None, what, remedy)])
    model = found[0].load()(config)
    if not isinstance(model, MarginModel):
        what = f"the model `{config.model}` is a {type(model).__name__}, not a MarginModel"
        raise BadInput([Problem("configuration", "model", None, what, "Derive it from marginax.models.MarginModel")])
    return model
