"""The models that a replay compares, by name, all charged by the same statistic over the same horizon."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marginax.config import Config
from marginax.models import MarginModel, load_model
from marginax.models.load import model_config
from marginax.parameter_file import check_model, read_document, settings_over
from marginax.problems import BadInput, Problem
from marginax_calibration.baselines import BASELINES


def load_models(
    names: Sequence[str],
    *,
    tail: float = 0.01,
    charge_tail: float = 0.025,
    horizon_days: float = 1.0,
    params: Path | None = None,
) -> dict[str, MarginModel]:
    """Models by preset, installed name or TOML file; a file goes by its name without the suffix.

    Tails and horizon are these, whatever a model's own configuration says of them: models that are charged differently
    cannot be compared, and a replay needs the horizon of one bar. `params` is a JSON file
    {"model": NAME, "settings": {SECTION: {KEY: VALUE}}} whose settings are put over those of the model of that name.
    Raises BadInput for a name that nothing brings or that is given twice.
    """
    found: dict[str, MarginModel] = {}
    labels = [_label(name) for name in names]
    fitted = {} if params is None else _fitted(params, names, labels)
    for name in names:
        label = _label(name)
        if label in found:
            remedy = "Name each model once; a file goes by its name without .toml, so rename it"
            raise BadInput([Problem("--models", None, None, f"`{label}` is named twice", remedy)])
        config = model_config(name)
        if label in fitted:
            config = settings_over(config, fitted[label], str(params))
        common = {"tail": tail, "charge_tail": charge_tail, "horizon_days": horizon_days}
        found[label] = load_model(settled(config, common))
    if not found:
        raise BadInput([Problem("--models", None, None, "names no model", f"Name some of {', '.join(BASELINES)}")])
    return found


def _fitted(params: Path, names: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """The settings of a parameter file by the model that they are of, which is to be among those named."""
    document = read_document(params)
    check_model(params, document, names, accepted=labels)
    return {document["model"]: document["settings"]}


def settled(config: Config, risk: Mapping[str, float]) -> Config:
    """A configuration with these tails and this horizon."""
    return config.model_copy(update={"risk": config.risk.model_copy(update=dict(risk))})


def _label(name: str) -> str:
    return Path(name).stem if name.endswith(".toml") else name
