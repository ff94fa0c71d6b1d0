"""Updates of 16-bit master weights on tensors equal the golden ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_golden import optimizer as golden  # noqa: E402
from gradloom_study import optimizer  # noqa: E402
from gradloom_study.draws import centred  # noqa: E402


@given(seed=st.integers(0, 1 << 16), momentum=st.booleans(), gradient_shift=st.integers(0, 31),
       decay=st.integers(1, 7), rate=st.integers(0, 15), size=st.integers(1, 36))
def test_updates_equal_golden(seed, momentum, gradient_shift, decay, rate, size):
    rng = np.random.default_rng(seed)
    rule = golden.Rule(gradient_shift=gradient_shift, momentum=momentum, decay_shift=decay,
                       rate_shift=rate)
    master, velocity = rng.integers(-1 << 15, 1 << 15, (2, 40))
    gradient = rng.integers(-1 << size, (1 << size) + 1, 40)
    random = rng.integers(0, 1 << 16, (2, 40))
    expected = golden.update(master, velocity, gradient, rule, master_bits=16,
                             random_gradient=random[0], random_step=random[1])
    draws = centred(torch.from_numpy(random))
    weights, velocities, gradients = (
        torch.from_numpy(part).double() for part in (master, velocity, gradient))
    found = optimizer.update(weights, velocities, gradients, rule,
                             gradient_draws=draws[0], step_draws=draws[1])
    for ours, theirs in zip(found, expected):
        np.testing.assert_array_equal(ours.numpy(), theirs)


def test_the_array_sees_the_top_of_a_master():
    master = np.arange(-1 << 15, 1 << 15)
    np.testing.assert_array_equal(
        optimizer.top(torch.from_numpy(master).double()).numpy(), golden.split(master, 8)[0])


def test_rescaled_masters_are_the_same_weights():
    weights = torch.arange(-16000, 16000, 7).double()
    master = weights + 128
    finer = optimizer.rescaled(master, -1)
    assert torch.equal(finer - 128, 2 * weights)
    assert torch.equal(optimizer.rescaled(finer, 1), master)
    odd = torch.tensor([-3.0, -1, 1, 3]).double() + 128
    assert (optimizer.rescaled(odd, 1) - 128).tolist() == [-1, 0, 1, 2]    # halves go up
    assert optimizer.rescaled(torch.tensor([32767.0]).double(), -1).tolist() == [32767]
