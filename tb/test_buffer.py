# amaranth: UnusedElaboratable=no
"""Buffers, and the memory below them, equal a NumPy array."""

import numpy as np
import pytest

from gradloom.buffer import Buffer
from gradloom.ram import Ram
from simulate import play

CYCLES = 300


def test_ram_reads_what_earlier_cycles_wrote(rng):
    depth, parts, bits = 8, 3, 5
    dut = Ram(depth, parts, bits)
    contents = np.zeros((depth, parts), np.int64)
    filling = [{"write_en": (1 << parts) - 1, "write_address": place, "write_data": 0}
               for place in range(depth)]
    cycles, expected, shown = [], [], 0
    for _ in range(CYCLES):
        read_en, read_address, write_en, write_address = rng.integers(0, (2, depth, 8, depth))
        new = rng.integers(0, 1 << bits, parts)
        cycles.append({
            "read_en": read_en, "read_address": read_address, "write_en": write_en,
            "write_address": write_address, "write_data": int(new @ (1 << bits * np.arange(parts))),
        })
        if read_en:
            shown = contents[read_address] @ (1 << bits * np.arange(parts))
        expected.append(shown if read_en or expected else None)
        written = write_en >> np.arange(parts) & 1 == 1
        contents[write_address, written] = new[written]
    seen = play(dut, [*filling, *cycles, {}], "read_data")["read_data"][depth + 1:]
    known = [index for index, value in enumerate(expected) if value is not None]
    np.testing.assert_array_equal(seen[known], [expected[index] for index in known])


SHAPES = [  # depth, lanes, bits, host_bits, write_lanes
    (8, 4, 8, 8, None), (8, 4, 4, 8, None), (8, 8, 8, 8, 4), (8, 8, 8, 16, 2), (4, 16, 8, 8, 4),
    (8, 4, 16, 16, None), (8, 4, 27, 32, None), (8, 1, 32, 32, None), (16, 1, 16, 32, None),
    (8, 8, 20, 32, 2), (4, 2, 8, 8, None), (8, 8, 8, 8, 2), (16, 8, 1, 1, 2),
]


@pytest.mark.parametrize(("depth", "lanes", "bits", "host_bits", "write_lanes"), SHAPES)
def test_machine_and_host_share_one_memory(depth, lanes, bits, host_bits, write_lanes, rng):
    dut = Buffer(depth, lanes, bits, host_bits=host_bits, write_lanes=write_lanes)
    part = write_lanes or lanes
    per_word = min(lanes, 32 // host_bits)
    flat = np.zeros(depth * lanes, np.int64)
    contents = flat.reshape(depth, lanes)
    words = len(flat) // per_word
    places = host_bits * np.arange(per_word)
    idle = {"read_en": 0, "write_parts": 0, "host_read": 0, "host_write": 0}
    cycles = [{**idle, "host_write": 1, "host_address": word, "host_data_i": 0}
              for word in range(words)]
    wide, narrow = {}, {}
    for _ in range(CYCLES):
        inputs = dict(idle)
        if rng.integers(2):
            word = int(rng.integers(words))
            data = int(rng.integers(1 << 32))
            here = slice(word * per_word, (word + 1) * per_word)
            access = rng.choice(["host_read", "host_write"])
            inputs |= {access: 1, "host_address": word, "host_data_i": data}
            if access == "host_read":
                narrow[len(cycles) + 1] = int((flat[here] << places).sum())
            else:
                # What the machine's side shows meanwhile must not matter.
                inputs |= {"write_address": int(rng.integers(depth))}
                flat[here] = data >> places & (1 << bits) - 1
        else:
            read_en, read_address, write_address = rng.integers(0, (2, depth, depth))
            parts = int(rng.integers(0, 1 << lanes // part))
            new = rng.integers(0, 1 << bits, lanes)
            inputs |= {"read_en": read_en, "read_address": read_address, "write_parts": parts,
                       "write_address": write_address, "write_data": new}
            if read_en:
                wide[len(cycles) + 1] = contents[read_address].copy()
            written = np.repeat(parts >> np.arange(lanes // part) & 1 == 1, part)
            contents[write_address, written] = new[written]
        cycles.append(inputs)
    seen = play(dut, [*cycles, idle], "read_data", "host_data_o")
    assert len(wide) > 30
    assert len(narrow) > 30
    np.testing.assert_array_equal(seen["read_data"][list(wide)], list(wide.values()))
    np.testing.assert_array_equal(seen["host_data_o"][list(narrow)], list(narrow.values()))


def test_a_read_stands_until_the_next():
    dut = Buffer(4, 4, 8, host_bits=8)
    writing = {"write_parts": 1, "write_address": 2, "write_data": [1, 2, 3, 4]}
    reading = {"write_parts": 0, "read_en": 1, "read_address": 2}
    overwriting = {"read_en": 0, "write_parts": 1, "write_data": [9] * 4}
    seen = play(dut, [writing, reading, overwriting, {}, {}], "read_data")["read_data"]
    np.testing.assert_array_equal(seen[2:], [[1, 2, 3, 4]] * 3)


class Model:
    """What a buffer holds and shows, and when it serves the mover.

    Parameters
    ----------
    shape : tuple of int
        Words, elements, and bits of an element.
    banks : int
    """

    def __init__(self, shape, banks):
        depth, lanes, self.bits = shape
        self.contents = np.zeros((depth, lanes), np.int64)
        self.bank_words = depth // banks
        self.stands_in = None

    def ready(self, inputs, address):
        """Return whether the mover's access of this cycle happens."""
        here = address // self.bank_words
        if inputs["mover_write"]:
            busy, machine = inputs["write_parts"], inputs["write_address"]
        else:
            if self.stands_in == here:
                return False
            busy, machine = inputs["read_en"], inputs["read_address"]
        return not (busy and machine // self.bank_words == here)

    def clocked(self, inputs):
        """Remember where the machine's last read stands for it."""
        if not inputs["active"]:
            self.stands_in = None
        elif inputs["read_en"]:
            self.stands_in = inputs["read_address"] // self.bank_words


@pytest.mark.parametrize("banks", [1, 2, 4])
@pytest.mark.parametrize("write_lanes", [4, 2])
def test_the_mover_waits_where_it_would_disturb_the_machine(banks, write_lanes, rng):
    depth, lanes, bits = shape = 16, 4, 8
    dut = Buffer(depth, lanes, bits, host_bits=8, write_lanes=write_lanes, banks=banks)
    model = Model(shape, banks)
    idle = {"active": 0, "read_en": 0, "write_parts": 0, "mover_read": 0, "mover_write": 0}
    whole = (1 << lanes // write_lanes) - 1
    cycles = [{**idle, "write_parts": whole, "write_address": place, "write_data": [0] * lanes}
              for place in range(depth)]
    machine, mover, ready, stood = {}, {}, {}, None
    for _ in range(4 * CYCLES):
        now = len(cycles)
        inputs = {
            **idle, "active": int(rng.random() < 0.9), "read_en": int(rng.random() < 0.4),
            "write_parts": int(rng.integers(0, whole + 1)) * int(rng.integers(2)),
            "read_address": int(rng.integers(depth)), "write_address": int(rng.integers(depth)),
            "write_data": rng.integers(0, 1 << bits, lanes),
            "mover_address": int(rng.integers(depth)),
            "mover_data_i": rng.integers(0, 1 << bits, lanes),
            str(rng.choice(["mover_read", "mover_write"])): int(rng.random() < 0.7),
        }
        place = inputs["mover_address"]
        asked = inputs["mover_read"] or inputs["mover_write"]
        served = asked and model.ready(inputs, place)
        if asked:
            ready[now] = served
        if stood is not None:
            machine[now] = stood
        # While the machine computes, what it read last stands.
        if not inputs["active"]:
            stood = None
        elif inputs["read_en"]:
            stood = model.contents[inputs["read_address"]].copy()
        if served and inputs["mover_read"]:
            mover[now + 1] = model.contents[place].copy()
        written = np.repeat(
            inputs["write_parts"] >> np.arange(lanes // write_lanes) & 1 == 1, write_lanes)
        model.contents[inputs["write_address"], written] = inputs["write_data"][written]
        if served and inputs["mover_write"]:
            model.contents[place] = inputs["mover_data_i"]
        model.clocked(inputs)
        cycles.append(inputs)
    first = len(cycles)
    cycles += [{**idle, "read_en": 1, "read_address": place} for place in range(depth)]
    seen = play(dut, [*cycles, idle], "read_data", "mover_data_o", "mover_ready")
    assert min(len(mover), sum(ready.values()), len(ready) - sum(ready.values())) > 50
    np.testing.assert_array_equal(seen["mover_ready"][list(ready)], list(ready.values()))
    np.testing.assert_array_equal(seen["mover_data_o"][list(mover)], list(mover.values()))
    np.testing.assert_array_equal(seen["read_data"][list(machine)], list(machine.values()))
    np.testing.assert_array_equal(seen["read_data"][first + 1:], model.contents)


def test_a_host_read_holds_the_mover_off_for_a_cycle():
    dut = Buffer(8, 4, 8, host_bits=8, banks=2)
    asking = {"mover_read": 1, "mover_address": 1}
    cycles = [{**asking, "host_read": 1, "host_address": 2}, {"host_read": 0},
              {"host_read": 1, "host_address": 6}, {"host_read": 0}]
    assert play(dut, cycles, "mover_ready")["mover_ready"].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(("lanes", "write_lanes"), [(8, 3), (4, 8), (12, 6), (6, 6)])
def test_rejects_parts_that_do_not_fit(lanes, write_lanes):
    words = f"^A buffer of {lanes} lanes cannot be written {write_lanes} lanes at a time, with 4 in"
    with pytest.raises(ValueError, match=words):
        Buffer(16, lanes, 8, host_bits=8, write_lanes=write_lanes)
