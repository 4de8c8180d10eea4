"""Scenarios: one type, many sources."""

from marginax.scenarios.given import GivenScenarios
from marginax.scenarios.historical import HistoricalScenarios
from marginax.scenarios.sets import ScenarioSet, join

__all__ = ["GivenScenarios", "HistoricalScenarios", "ScenarioSet", "join"]
