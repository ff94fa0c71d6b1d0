"""One cell: its three slots, its packed products, and its chains."""

import numpy as np
import pytest

from gradloom.pe import TAPS, ProcessingElement
from gradloom_golden.config import preset
from gradloom_golden.fixed import integer_range, sign_extend
from gradloom_golden.lanes import STEP_OF_FIELD, lane_values
from simulate import play

TINY = preset("tiny")
CONFIGS = {
    "tiny": TINY,
    "turning": TINY.with_changes(overlap=False),
    "gradients": TINY.with_changes(gradient_bits=16),
    "plain": TINY.with_changes(lanes=False),
    "operands": TINY.with_changes(operand_bits=4, lanes=False),
    "plain_turning": TINY.with_changes(lanes=False, gradient_bits=16, overlap=False),
}
SLOTS = 60
QUIET = {"wave_i": {"os": 0, "swap": 0}, "shift": 0, "west": 0, "gradient_i": 0, "sum_i": 0}


@pytest.fixture(params=CONFIGS)
def config(request):
    """Configuration of a cell."""
    return CONFIGS[request.param]


def mode(*, forward=0, q=1):
    return {"forward": forward, "two": int(q == 2), "four": int(q == 4)}


def drawn(rng, bits, count=SLOTS):
    low, high = integer_range(bits)
    values = rng.integers(low, high, count, endpoint=True)
    values[:4] = low, high, low, -1
    return values


def loading(config, weight):
    """Return the cycles that put a weight into the cell, and clear its gradient."""
    shifting = [{**QUIET, "shift": 1, "weight_i": weight, "drain_i": 0}]
    if not config.overlap:
        return shifting
    return [*shifting, {**QUIET, "wave_i": {"os": 0, "swap": 1}}]


def west_of(config, rng, words):
    """Return words with noise above, which only sums may carry there."""
    noise = rng.integers(0, 1 << config.sum_bits - config.operand_bits, len(words))
    return sign_extend(words | noise << config.operand_bits, config.sum_bits)


def test_forward_slots_add_going_south(config, rng):
    weights = drawn(rng, config.operand_bits, 6).tolist()
    words = rng.integers(0, 1 << config.operand_bits, SLOTS)
    sums = drawn(rng, config.sum_bits - 2)
    west = west_of(config, rng, words)
    cell = ProcessingElement(config)
    cycles, starts = [{"mode": mode(forward=1)}], []
    for weight in weights:
        cycles += loading(config, weight)
        starts.append(len(cycles))
        cycles += [{**QUIET, "west": x, "sum_i": above}
                   for x, above in zip(west, sums, strict=True)]
    seen = play(cell, [*cycles, QUIET], "sum_o", "east")
    x = sign_extend(words, config.operand_bits)
    for start, weight in zip(starts, weights, strict=True):
        later = slice(start + 1, start + 1 + SLOTS)
        np.testing.assert_array_equal(seen["sum_o"][later], sums + x * weight)
        np.testing.assert_array_equal(
            seen["east"][later] & (1 << config.operand_bits) - 1, words)


def test_weight_stationary_slots_add_going_east(config, rng):
    weights = drawn(rng, config.operand_bits, 6).tolist()
    gradients = drawn(rng, config.gradient_bits)
    west = drawn(rng, config.sum_bits - 2)
    cycles, starts = [{"mode": mode()}], []
    for weight in weights:
        cycles += loading(config, weight)
        starts.append(len(cycles))
        cycles += [{**QUIET, "west": before, "gradient_i": d}
                   for before, d in zip(west, gradients, strict=True)]
    seen = play(ProcessingElement(config), [*cycles, QUIET], "east", "gradient_o")
    for start, weight in zip(starts, weights, strict=True):
        later = slice(start + 1, start + 1 + SLOTS)
        np.testing.assert_array_equal(seen["east"][later], west + gradients * weight)
        np.testing.assert_array_equal(seen["gradient_o"][later], gradients)


def drained(config, slots, weight, slot_mode):
    """Play the slots on a fresh cell; return its dW and the weight beside it, and all of `east`."""
    cycles = [{"mode": slot_mode}, *loading(config, weight), *slots]
    if config.overlap:
        # The slot that swaps still counts.
        cycles[-1] = {**cycles[-1], "wave_i": {**cycles[-1]["wave_i"], "swap": 1}}
    seen = play(ProcessingElement(config), [*cycles, QUIET], "drain_o", "weight_o", "east")
    return int(seen["drain_o"][-1]), int(seen["weight_o"][-1]), seen["east"][-len(slots):]


def test_output_stationary_slots_add_in_place(config, rng):
    words = rng.integers(0, 1 << config.operand_bits, SLOTS)
    is_os = rng.integers(0, 2, SLOTS)
    is_os[-1] = 1
    gradients = drawn(rng, config.gradient_bits)
    west = west_of(config, rng, words)
    slots = [{**QUIET, "wave_i": {"os": slot, "swap": 0}, "west": x, "gradient_i": d}
             for slot, x, d in zip(is_os, west, gradients, strict=True)]
    wgrad, weight, east = drained(config, slots, -3, mode())
    x = sign_extend(words, config.operand_bits)
    assert wgrad == (x * gradients)[is_os == 1].sum()
    assert weight == -3
    passed = east[is_os == 1] & (1 << config.operand_bits) - 1
    np.testing.assert_array_equal(passed, words[is_os == 1])


@pytest.mark.parametrize("q", [2, 4])
@pytest.mark.parametrize("name", ["tiny", "turning", "gradients"])
def test_packed_words_meet_the_newest_gradients(name, q, rng):
    config = CONFIGS[name]
    words = rng.integers(0, 256, SLOTS)
    is_os = rng.integers(0, 2, SLOTS)
    is_os[-1] = 1
    gradients = drawn(rng, config.gradient_bits)
    taps = rng.integers(*integer_range(config.gradient_bits), (SLOTS, TAPS))
    slots = [{**QUIET, "wave_i": {"os": slot, "swap": 0}, "west": x, "gradient_i": d, "taps": below}
             for slot, x, d, below in zip(is_os, west_of(config, rng, words), gradients, taps,
                                          strict=True)]
    wgrad, *_ = drained(config, slots, 5, mode(q=q))
    own = np.concatenate([[0], gradients[:-1]])
    # The newest step of a group is in the cell's own register, earlier ones further down.
    history = np.column_stack([own, taps])
    factors = history[:, [q - 1 - step for step in STEP_OF_FIELD[q]]]
    products = (lane_values(words, q, unsigned=False) * factors).sum(axis=1)
    assert wgrad == products[is_os == 1].sum()


@pytest.mark.parametrize("q", [2, 4])
def test_packing_leaves_weight_stationary_slots_alone(q, rng):
    west, gradients = drawn(rng, TINY.sum_bits - 2), drawn(rng, TINY.gradient_bits)
    slots = [{**QUIET, "west": before, "gradient_i": d}
             for before, d in zip(west, gradients, strict=True)]
    _, _, east = drained(TINY, slots, 77, mode(q=q))
    np.testing.assert_array_equal(east, west + gradients * 77)


def test_a_shift_moves_weight_and_gradient_north(config, rng):
    weights = drawn(rng, config.operand_bits, 9)
    gradients = drawn(rng, config.wgrad_bits, 9)
    cycles = [{"mode": mode()}]
    cycles += [{**QUIET, "shift": 1, "weight_i": w, "drain_i": g}
               for w, g in zip(weights, gradients, strict=True)]
    seen = play(ProcessingElement(config), [*cycles, QUIET, QUIET], "weight_o", "drain_o")
    expected = np.append(weights, weights[-1]), np.append(gradients, gradients[-1])
    np.testing.assert_array_equal(seen["weight_o"][2:], expected[0])
    np.testing.assert_array_equal(seen["drain_o"][2:], expected[1])


def test_the_shadow_chain_shifts_while_slots_run(rng):
    gradients = drawn(rng, 8)
    words = rng.integers(-128, 128, SLOTS)
    slots = [{**QUIET, "wave_i": {"os": 1, "swap": 0}, "west": x, "gradient_i": d}
             for x, d in zip(words, gradients, strict=True)]
    for index, slot in enumerate(slots[:-1]):
        slot |= {"shift": index % 3 == 0, "weight_i": index, "drain_i": -index}
    wgrad, weight, _ = drained(TINY, slots, -9, mode())
    assert wgrad == words @ gradients
    assert weight == -9


def test_waves_pass_in_a_cycle(config):
    waves = [{"os": os, "swap": swap} for os in (0, 1) for swap in (0, 1)]
    cycles = [*({**QUIET, "wave_i": wave} for wave in waves), QUIET]
    seen = play(ProcessingElement(config), cycles, "wave_o")["wave_o"]
    assert seen[1:].tolist() == [wave["os"] | wave["swap"] << 1 for wave in waves]
