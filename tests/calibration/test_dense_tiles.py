"""A dense tile of a replay against the gathered one of a margin run: the same losses, the same sums of groups."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from calibration._histories import held, usual_panel, with_options
from marginax.models.addons.dependence import run_shortfalls, standalone
from marginax.models.protocol import Prepared
from marginax.models.runs import find_runs
from marginax.models.tile_losses import tile_losses
from marginax_calibration.portfolios import Portfolio
from marginax_calibration.unit_market import Legs
from marginax_kernels import unit_shortfalls

SCENARIOS, TAIL = 200, 0.05
LINEAR, OPTIONED = tuple(held().values()), tuple(with_options().values())


@pytest.mark.parametrize("portfolios", [LINEAR, (*LINEAR, *OPTIONED)], ids=["linear", "with options"])
def test_a_product_of_matrices_says_what_gathered_rows_say(double: None, portfolios: tuple[Portfolio, ...]) -> None:
    legs = Legs.of(portfolios, usual_panel())
    dense = legs.tile(portfolios)
    groups = np.concatenate([legs.underlying, np.arange(legs.assets), [-1]])
    gathered = eqx.tree_at(
        lambda tile: (tile.dense, tile.runs), dense, (None, find_runs(dense.instruments, dense.assets, groups))
    )
    rng = np.random.default_rng(3)
    cube = jnp.asarray(np.append(rng.standard_t(4, (len(groups) - 1, SCENARIOS)), np.zeros((1, SCENARIOS)), axis=0))
    prepared = Prepared(cube, jnp.full(SCENARIOS, 1 / SCENARIOS))
    units = unit_shortfalls(cube, prepared.weights, tail=TAIL)
    scale = jnp.asarray(rng.uniform(0.5, 2.0, len(groups)))
    losses, sums = [], []
    for tile in (dense, gathered):
        losses.append(tile_losses(prepared, tile)[1])
        groups = run_shortfalls(cube, prepared.weights, tile, tail=TAIL)
        sums.append(standalone(units, jnp.stack([jnp.ones(len(scale)), scale], axis=1), tile, groups))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-12)
    assert (np.asarray(sums[0][:, 0])[: len(portfolios)] > 0).all()
