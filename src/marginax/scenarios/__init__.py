"""Scenarios: one type, many sources."""

from marginax.scenarios.given import GivenScenarios
from marginax.scenarios.historical import HistoricalScenarios
from marginax.scenarios.monte_carlo import MonteCarloScenarios
from marginax.scenarios.sets import ScenarioSet, join
from marginax.scenarios.source import ScenarioSource

__all__ = ["GivenScenarios", "HistoricalScenarios", "MonteCarloScenarios", "ScenarioSet", "ScenarioSource", "join"]
