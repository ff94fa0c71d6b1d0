"""Rows in memory against NumPy's own types and explicit loops."""

import numpy as np
import pytest

from gradloom_golden.config import preset
from gradloom_golden.lanes import quantize
from gradloom_golden.program import Descriptor, Error, Opcode, Region, element_bits, memory_shape
from gradloom_golden.transfer import (
    REGIONS,
    Plan,
    pack_words,
    plan,
    row_bytes,
    unpack_words,
    word_bits,
)

TINY = preset("tiny")
WIDE = TINY.with_changes(rows=4, columns=16, gradient_bits=16)
BEAT = TINY.axi_data_bits // 8
TOP = 1 << TINY.axi_address_bits
PADDED = {
    Region.ACTIVATION: "<u1", Region.IMAGE: "<u1", Region.WEIGHT: "<u1", Region.GRADIENT: "<u2",
    Region.BIAS: "<u2", Region.STATE: "<u4", Region.KEEP: "<u4", Region.LABEL: "<u4",
    Region.SCALE: "<u4",
}


def words_for(config, region, count, rng):
    _, elements, _ = memory_shape(config, region)
    return rng.integers(0, 1 << element_bits(config, region), (count, elements))


def load(**changes):
    values = {"opcode": Opcode.LOAD, "function": Region.ACTIVATION, "steps": 3, "rows": 1}
    return Descriptor(**values | changes)


def at(address):
    return {"memory_low": address & 0xFFFFFFFF, "memory_high": address >> 32}


@pytest.mark.parametrize("region", sorted(PADDED))
def test_elements_are_padded_as_the_host_sees_them(region, rng):
    words = words_for(WIDE, region, 5, rng)
    raw = pack_words(WIDE, region, words)
    assert raw.tobytes() == words.astype(PADDED[region]).tobytes()
    assert len(raw) == row_bytes(WIDE, region, 5)
    np.testing.assert_array_equal(unpack_words(WIDE, region, raw, 5), words)
    np.testing.assert_array_equal(pack_words(WIDE, region, words, 8), raw)


@pytest.mark.parametrize("region", sorted(PADDED))
def test_a_buffer_keeps_only_its_bits(region, rng):
    raw = rng.integers(0, 256, row_bytes(WIDE, region, 4), np.uint8)
    kept = (1 << element_bits(WIDE, region)) - 1
    elements = raw.view(PADDED[region]).astype(np.int64).reshape(4, -1) & kept
    np.testing.assert_array_equal(unpack_words(WIDE, region, raw, 4), elements)


def test_masks_lie_bit_by_bit(rng):
    words = words_for(TINY, Region.MASK, 3, rng)
    raw = pack_words(TINY, Region.MASK, words)
    bits = sum(int(bit) << index for index, bit in enumerate(words.ravel()))
    assert raw.tolist() == [bits & 255, bits >> 8]
    np.testing.assert_array_equal(unpack_words(TINY, Region.MASK, raw, 3), words)


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("operand_bits", [4, 8])
@pytest.mark.parametrize("bits", [4, 2])
def test_compressed_elements_are_quantized_and_shifted_back(bits, operand_bits, unsigned, rng):
    config = TINY.with_changes(operand_bits=operand_bits, lanes=False)
    words = words_for(config, Region.ACTIVATION, 5, rng)
    random = rng.integers(0, 1 << 16, words.shape)
    for shift in range(8):
        raw = pack_words(config, Region.ACTIVATION, words, bits, x_shift=shift, unsigned=unsigned,
                         random=random)
        assert len(raw) == 5 * config.lane_count * bits // 8
        values = words if unsigned else np.where(
            words >> operand_bits - 1, words - (1 << operand_bits), words)
        small = quantize(values, bits, shift, unsigned=unsigned, random=random)
        for index, value in enumerate(small.ravel().tolist()):
            byte = raw[index * bits // 8]
            assert int(byte) >> index * bits % 8 & (1 << bits) - 1 == value & (1 << bits) - 1
        np.testing.assert_array_equal(
            unpack_words(config, Region.ACTIVATION, raw, 5, bits, x_shift=shift,
                         unsigned=unsigned),
            (small << shift) & (1 << operand_bits) - 1)


@pytest.mark.parametrize("region", [*sorted(set(Region) - REGIONS), 13, 14])
def test_regions_that_do_not_move(region):
    with pytest.raises(ValueError, match="cannot be moved; choose from ACTIVATION, GRADIENT"):
        word_bits(TINY, region)
    assert plan(TINY, load(function=region, **at(32))) == Plan(
        error=Error.REGION, failed_address=32)


@pytest.mark.parametrize(("region", "bits"), [
    (Region.ACTIVATION, 1), (Region.ACTIVATION, 16), (Region.IMAGE, 4), (Region.MASK, 1)])
def test_widths_that_do_not_move(region, bits):
    with pytest.raises(ValueError, match=f"{region.name} cannot be moved as {bits} bits; use 0"):
        word_bits(TINY, region, bits)
    if bits < 16:
        assert plan(TINY, load(function=region, tested_bits=bits)).error == Error.REGION


def test_a_save_does_not_gather():
    assert plan(TINY, load(opcode=Opcode.SAVE, gather=1)).error == Error.REGION


@pytest.mark.parametrize(("changes", "error"), [
    ({**at(BEAT + 1)}, Error.MEMORY_ALIGNMENT),
    ({**at(BEAT // 2), "rows": 0}, Error.MEMORY_ALIGNMENT),
    ({"packed_base": BEAT // 2, "rows": 2}, Error.MEMORY_ALIGNMENT),
    ({"packed_base": BEAT // 2}, Error.NONE),
    ({**at(TOP - BEAT)}, Error.NONE),
    ({**at(TOP - BEAT), "steps": 4}, Error.NONE),
    ({**at(TOP - BEAT), "steps": 5}, Error.MEMORY_RANGE),
    ({**at(TOP)}, Error.MEMORY_RANGE),
    ({**at(TOP), "rows": 0}, Error.NONE),
    ({**at(2 * TOP), "steps": 0}, Error.NONE),
    ({**at(TOP - 4 * BEAT), "packed_base": BEAT, "rows": 4}, Error.NONE),
    ({**at(TOP - 4 * BEAT), "packed_base": BEAT, "rows": 5}, Error.MEMORY_RANGE),
    ({**at(TOP), "gather": 1}, Error.MEMORY_RANGE),
])
def test_what_is_wrong_is_found_before_anything_moves(changes, error):
    found = plan(TINY, load(**changes), np.zeros(TINY.steps_depth, int))
    assert found.error == error
    if error:
        base = changes.get("memory_high", 0) << 32 | changes.get("memory_low", 0)
        assert found == Plan(error=error, failed_address=base)
    else:
        rows, steps = changes.get("rows", 1), changes.get("steps", 3)
        assert len(found.addresses) == (rows if steps else 0)


def test_rows_lie_a_stride_apart():
    assert plan(TINY, load(rows=3, packed_base=5 * BEAT, **at(7 * BEAT))).addresses == (
        7 * BEAT, 12 * BEAT, 17 * BEAT)


def test_gathered_rows_follow_the_keep_list():
    keep = np.arange(TINY.steps_depth)[::-1]
    gathered = load(rows=3, packed_base=BEAT, gather=1, first_sample=30, **at(0))
    assert plan(TINY, gathered, keep).addresses == (BEAT, 0, 31 * BEAT)


def test_gathered_rows_before_an_error_move():
    keep = [0, 2, 3, 1] + [0] * 28
    gathered = load(rows=4, packed_base=BEAT, gather=1, **at(TOP - 3 * BEAT))
    assert plan(TINY, gathered, keep) == Plan(
        addresses=(TOP - 3 * BEAT, TOP - BEAT), error=Error.MEMORY_RANGE, failed_address=TOP)
