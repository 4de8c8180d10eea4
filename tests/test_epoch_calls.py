"""The ledger of a replay: who is called, who pays, and whose positions are closed for how much."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from marginax.epochs.calls import POLICIES, Ledger, Policy
from reference import epochs as twin


def holders() -> some.SearchStrategy[list[tuple[float, float]]]:
    figures = some.floats(-1e6, 1e6), some.one_of(some.just(0.0), some.floats(0.01, 1e6))
    return some.lists(some.tuples(*figures), min_size=3, max_size=3)


@given(policy=some.sampled_from(POLICIES), path=some.lists(holders(), min_size=1, max_size=6))
def test_the_ledger_is_the_loop(policy: Policy, path: list[list[tuple[float, float]]]) -> None:
    ledger, loop = Ledger.of_nothing(3), [twin.Holder() for _ in range(3)]
    for epoch in path:
        figures = np.array(epoch)
        before = ledger
        ledger = ledger.after(policy, figures[:, 0], figures[:, 1], np.arange(3))
        for holder, (equity, call) in zip(loop, epoch, strict=True):
            holder.epoch(policy, equity, call)
        for name in ("paid", "closed", "cash", "called"):
            np.testing.assert_array_equal(getattr(ledger, name), [getattr(holder, name) for holder in loop])
        assert (ledger.paid >= before.paid).all()
        assert (ledger.closed >= before.closed).all()
        assert (ledger.cash >= 0).all()


def test_what_is_left_of_an_isolated_position_is_owned_once_when_its_account_is_closed_later() -> None:
    """An account and its isolated position, which is closed first: its cash is in the account's equity by then."""
    owners, ledger = np.zeros(2, int), Ledger.of_nothing(2)
    for equity, call in (((50.0, 30.0), (0.0, 9.0)), ((50.0, 20.0), (7.0, 0.0)), ((70.0, 0.0), (7.0, 0.0))):
        ledger = ledger.after("closed", np.array(equity), np.array(call), owners)
    assert ledger.closed.all()
    assert ledger.cash.sum() == 70.0
    # Closed in one epoch, each has its own.
    both = Ledger.of_nothing(2).after("closed", np.array([50.0, 30.0]), np.array([7.0, 9.0]), owners)
    assert both.after("closed", np.array([40.0, 20.0]), np.zeros(2), owners).cash.sum() == 60.0


def test_who_has_no_margin_is_neither_called_nor_closed() -> None:
    nan = np.array([np.nan])
    for policy in POLICIES:
        ledger = Ledger.of_nothing(1).after(policy, np.array([-5.0]), np.array([9.0]), np.arange(1))
        after = ledger.after(policy, nan, nan, np.arange(1))
        assert not after.closed[0]
        assert after.paid[0] == ledger.paid[0]
