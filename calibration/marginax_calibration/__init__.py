"""Floor 3: replays history, backtests the models of floor 2, and fits their parameters by differentiating them."""
