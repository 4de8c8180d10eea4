"""marginax: the margin of every account of a derivatives venue, in one batched pass on GPU or CPU.

Names are imported when they are first used, so that `import marginax` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marginax.book import Book, read_book
    from marginax.changes import Change, explain_change
    from marginax.config import Config, load_config
    from marginax.datasets import Dataset, open_dataset, partition_book
    from marginax.engine import (
        DatasetResult,
        LiveMargin,
        Result,
        correlation_sensitivity,
        follow,
        margin_book,
        margin_dataset,
        resume,
    )
    from marginax.market import Market, read_market
    from marginax.models import MarginModel, load_model
    from marginax.price_checks import check_prices, last_good
    from marginax.problems import BadInput, Problem
    from marginax.run_inputs import RunInputs, read_inputs
    from marginax.scenarios import ScenarioSet, join
    from marginax.status import Status

_HOMES = {
    "BadInput": "problems",
    "Book": "book",
    "Change": "changes",
    "Config": "config",
    "Dataset": "datasets",
    "DatasetResult": "engine",
    "MarginModel": "models",
    "LiveMargin": "engine",
    "Market": "market",
    "Problem": "problems",
    "Result": "engine",
    "RunInputs": "run_inputs",
    "ScenarioSet": "scenarios",
    "Status": "status",
    "check_prices": "price_checks",
    "correlation_sensitivity": "engine",
    "explain_change": "changes",
    "follow": "engine",
    "join": "scenarios",
    "last_good": "price_checks",
    "load_config": "config",
    "load_model": "models",
    "margin_book": "engine",
    "margin_dataset": "engine",
    "open_dataset": "datasets",
    "partition_book": "datasets",
    "read_book": "book",
    "read_inputs": "run_inputs",
    "read_market": "market",
    "resume": "engine",
}

__all__ = [
    "BadInput",
    "Book",
    "Change",
    "Config",
    "Dataset",
    "DatasetResult",
    "LiveMargin",
    "MarginModel",
    "Market",
    "Problem",
    "Result",
    "RunInputs",
    "ScenarioSet",
    "Status",
    "check_prices",
    "correlation_sensitivity",
    "explain_change",
    "follow",
    "join",
    "last_good",
    "load_config",
    "load_model",
    "margin_book",
    "margin_dataset",
    "open_dataset",
    "partition_book",
    "read_book",
    "read_inputs",
    "read_market",
    "resume",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'marginax' has no attribute {name!r}")
    return getattr(import_module(f"marginax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
