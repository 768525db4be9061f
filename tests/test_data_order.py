"""The order of examples is a pure function of (seed, position)."""

import pytest
import torch

from toolkit.data.order import Order, hashes, permutation

CPU = torch.device("cpu")


def test_hashes_are_those_of_splitmix64():
    # The first outputs of the authors' C program (prng.di.unimi.it) from state 0, whose counter starts at 1.
    assert hashes(0, 1, 3).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_every_epoch_shows_every_example_once(n: int):
    order = Order(n, seed=0, device=CPU)
    for epoch in range(3):
        assert order.rows(epoch * n, n)[0].sort().values.tolist() == list(range(n))


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = (Order(100, 0, CPU).rows(epoch * 100, 100)[0] for epoch in (0, 1))
    other = Order(100, 1, CPU).rows(0, 100)[0]
    assert not first.equal(second)
    assert not first.equal(other)


@pytest.mark.parametrize(("start", "count"), [(0, 5), (5, 4), (6, 1), (3, 40), (6, 15), (7, 7)])
def test_rows_are_a_cut_from_one_sequence_wherever_epochs_end(start: int, count: int):
    order = Order(7, seed=3, device=CPU)
    singly = [order.rows(position, 1) for position in range(start, start + count)]
    indices, mirrored = order.rows(start, count)
    assert indices.equal(torch.cat([index for index, _ in singly]))
    assert mirrored.equal(torch.cat([mirror for _, mirror in singly]))


def test_a_far_position_needs_no_walk_through_earlier_ones():
    far = 10**12 + 3
    assert Order(1797, 0, CPU).rows(far, 8)[0].equal(Order(1797, 0, CPU).rows(far - 3, 11)[0][3:])


def test_half_of_all_positions_are_mirrored_and_an_example_not_always_alike():
    order = Order(1000, seed=0, device=CPU)
    mirrored = torch.stack([order.rows(epoch * 1000, 1000)[1] for epoch in range(10)]).float()
    assert mirrored.mean() == pytest.approx(0.5, abs=0.02)  # 4 standard deviations
    assert mirrored.mean(0).std() == pytest.approx(0.5 / 10**0.5, rel=0.1)


def test_the_first_place_goes_to_all_examples_alike():
    first = torch.bincount(torch.tensor([permutation(seed, 4)[0] for seed in range(4000)]), minlength=4)
    chi_squared = ((first - 1000) ** 2 / 1000).sum()
    assert chi_squared < 16.3  # 99.9 % at 3 degrees of freedom
