"""A training step equals the golden machine running the same network, descriptor by descriptor."""

from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from gradloom_golden import loss
from gradloom_golden.confidence import NEVER, margins
from gradloom_golden.config import Config, preset
from gradloom_golden.fixed import HALF, sign_extend
from gradloom_golden.lfsr import Bank
from gradloom_golden.machine import GoldenMachine, run_program
from gradloom_golden.optimizer import VELOCITY_BITS, Rule, join, split
from gradloom_golden.program import (
    OFFSET_BITS,
    Descriptor,
    Drain,
    Opcode,
    Region,
    Register,
    Schedule,
)
from gradloom_golden.training import (
    Layer,
    Weights,
    fit,
    forward_layer,
    input_gradient_layer,
    lfsr_banks,
    pad_weights,
    train_step,
)

EXPONENT = -4
SEED = 0x2468ACE
TINY = preset("tiny").with_changes(activation_depth=1024, gradient_depth=512, weight_depth=256)
MACHINES = {
    "square": TINY,
    "tall": TINY.with_changes(rows=8),
    "wide": TINY.with_changes(columns=8),
    "16-bit gradients": TINY.with_changes(gradient_bits=16),
    "narrow": TINY.with_changes(operand_bits=4, lanes=False, master_bits=12),
}
PLAIN = Rule(gradient_shift=3)
MOMENTUM = Rule(gradient_shift=2, momentum=True, decay_shift=2, rate_shift=1)


@dataclass
class Case:
    """A network, its batch, and the state that it starts from."""

    config: Config
    layers: list[Layer]
    weights: list[Weights]
    x: np.ndarray
    labels: np.ndarray
    classes: int

    def step(self, **changes):
        arguments = {"classes": self.classes, "threshold": NEVER, "exponent": EXPONENT,
                     "banks": lfsr_banks(self.config, SEED), "weights": self.weights}
        arguments |= changes
        weights = arguments.pop("weights")
        return train_step(self.config, self.layers, weights, self.x, self.labels, **arguments)


def make_case(rng, config, sizes=(6, 9, 5, 3), *, steps=11, lanes=(1,), rule=PLAIN):
    """Return a random network; `lanes` are taken in turn by its layers."""
    layers, weights = [], []
    half = 1 << config.master_bits - 1
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        q = lanes[index % len(lanes)] if config.lanes else 1
        layers.append(Layer(
            out_shift=config.operand_bits - 1, input_gradient_shift=config.operand_bits - 3,
            lanes=q, x_shift=8 - 8 // q, rule=rule))
        padded = pad_weights(config, rng.integers(-half, half, (inputs, outputs)))
        padded.velocity[:inputs, :outputs] = rng.integers(-500, 500, (inputs, outputs))
        weights.append(padded)
    low = 1 << config.operand_bits - 1
    x = rng.integers(-low, low, (steps, sizes[0]))
    return Case(config, layers, weights, x, rng.integers(0, sizes[-1], steps), sizes[-1])


class Runner:
    """A golden machine, and where a network's tensors lie in it.

    A tensor of F features takes ceil(F / lane_count) blocks of rows of samples.
    """

    def __init__(self, case):
        self.case, self.config = case, case.config
        self.machine = GoldenMachine(self.config)
        self.machine.write(Register.SEED, [SEED])
        self.steps = len(case.x)
        masters = [weight.master for weight in case.weights]
        widths = [max(len(right), left.shape[1]) for left, right in
                  zip([masters[0][:, :1], *masters], [*masters, masters[-1][:1]], strict=True)]
        words = [-(-width // self.config.lane_count) * self.steps for width in widths]
        self.bases = [sum(words[:index]) for index in range(len(words) + 1)]
        self.w_bases = [sum(master.size for master in masters[:index]) // self.config.columns
                        for index in range(len(masters))]
        self.put(Region.ACTIVATION, 0, case.x, self.steps)

    def put(self, region, base, values, stride):
        lanes, memory = self.config.lane_count, self.machine.memory[region]
        bits = self.config.gradient_bits if region == Region.GRADIENT else self.config.operand_bits
        for block in range(0, values.shape[1], lanes):
            rows = slice(base + block // lanes * stride, base + block // lanes * stride + stride)
            memory[rows] = fit(values[:, block:], lanes) & (1 << bits) - 1

    def get(self, region, base, width, stride, *, unsigned):
        lanes, memory = self.config.lane_count, self.machine.memory[region]
        bits = self.config.gradient_bits if region == Region.GRADIENT else self.config.operand_bits
        blocks = [memory[base + block * stride:][:stride] for block in range(-(-width // lanes))]
        values = np.concatenate(blocks, axis=1)[:, :width]
        return values if unsigned else sign_extend(values, bits)

    def tiles(self, index):
        inputs, outputs = self.case.weights[index].master.shape
        return inputs // self.config.rows, outputs // self.config.columns

    def cut(self, index, matrix):
        """Return a weight-shaped matrix as rows of tiles."""
        k_tiles, n_tiles = self.tiles(index)
        tiled = matrix.reshape(k_tiles, self.config.rows, n_tiles, self.config.columns)
        return tiled.transpose(0, 2, 1, 3).reshape(-1, self.config.columns)

    def rows(self, index):
        return slice(self.w_bases[index],
                     self.w_bases[index] + self.case.weights[index].master.size
                     // self.config.columns)

    def put_weights(self, index, weights):
        config, memory = self.config, self.machine.memory
        weight, residue = split(self.cut(index, weights.master), config.residue_bits)
        velocity = self.cut(index, weights.velocity) & 0xFFFF
        memory[Region.WEIGHT][self.rows(index)] = weight & (1 << config.operand_bits) - 1
        memory[Region.STATE][self.rows(index)] = residue | velocity << config.residue_bits

    def get_weights(self, index):
        config, memory = self.config, self.machine.memory
        state = memory[Region.STATE][self.rows(index)]
        weight = sign_extend(memory[Region.WEIGHT][self.rows(index)], config.operand_bits)
        residue = state & (1 << config.residue_bits) - 1
        return (join(weight, residue, config.residue_bits),
                sign_extend(state >> config.residue_bits, VELOCITY_BITS))

    def do(self, **fields):
        run_program(self.machine, [Descriptor(**fields)])
        assert self.machine.read(Register.STATUS, 1)[0] == 0

    def forward(self, index, *, x_unsigned):
        k_tiles, n_tiles = self.tiles(index)
        hidden = index < len(self.case.layers) - 1
        self.do(opcode=Opcode.FORWARD, steps=self.steps, x_stride=self.steps, k_tiles=k_tiles,
                n_tiles=n_tiles, x_base=self.bases[index], w_base=self.w_bases[index],
                out_base=self.bases[index + 1], out_shift=self.case.layers[index].out_shift,
                x_unsigned=int(x_unsigned), relu=int(hidden), y_unsigned=int(hidden))
        return self.get(Region.ACTIVATION, self.bases[index + 1], n_tiles * self.config.columns,
                        self.steps, unsigned=hidden)

    def confidence(self, threshold):
        for sample, label in enumerate(self.case.labels):
            self.machine.write((Region.LABEL << OFFSET_BITS) + sample, [label])
        self.do(opcode=Opcode.CONFIDENCE, steps=self.steps, x_base=self.bases[-2],
                classes=self.case.classes, threshold=threshold)
        kept = int(self.machine.read(Register.KEPT, 1)[0])
        return self.machine.read(Region.KEEP << OFFSET_BITS, kept)

    def backward(self, index, kept, *, x_unsigned, schedule):
        """Run one layer's backward pass; return dW and dX."""
        layer, first = self.case.layers[index], index == 0
        k_tiles, n_tiles = self.tiles(index)
        fields = {
            "opcode": Opcode.BACKWARD,
            "schedule": Schedule.WEIGHT_GRADIENT if first else schedule, "steps": kept,
            "x_stride": self.steps, "k_tiles": k_tiles, "n_tiles": n_tiles,
            "x_base": self.bases[index], "d_base": self.bases[index + 1],
            "w_base": self.w_bases[index], "state_base": self.w_bases[index],
            "packed_base": self.bases[-1], "out_base": self.bases[index],
            "out_shift": layer.input_gradient_shift, "stochastic": 1, "gather": 1,
            "mask": int(not first), "x_unsigned": int(x_unsigned),
            "lanes_log2": layer.lanes.bit_length() - 1, "x_shift": layer.x_shift,
            "gradient_shift": layer.rule.gradient_shift, "momentum": int(layer.rule.momentum),
            "decay_shift": layer.rule.decay_shift, "rate_shift": layer.rule.rate_shift,
        }
        before = self.machine
        self.machine = deepcopy(before)
        self.do(drain=Drain.STORE, **fields)
        stored = sign_extend(self.machine.memory[Region.STATE][self.rows(index)],
                             self.config.wgrad_bits)
        self.machine = before
        self.do(drain=Drain.UPDATE, **fields)
        dx = self.get(Region.GRADIENT, self.bases[index], k_tiles * self.config.rows, kept,
                      unsigned=False)
        return stored, dx


def assert_same(runner, step, *, threshold=NEVER, x_unsigned=False,
                schedule=Schedule.INTERLEAVED, error_random=HALF):
    """Run the step on the machine, and compare everything as it appears."""
    same = np.testing.assert_array_equal
    config, last = runner.config, len(step.layers) - 1
    for index, layer in enumerate(step.layers):
        same(runner.forward(index, x_unsigned=x_unsigned or index > 0), layer.y)
    same(step.layers[-1].y[:, :runner.case.classes], step.logits)
    keep = runner.confidence(threshold)
    same(keep, step.keep)
    error = loss.error(step.logits[keep], runner.case.labels[keep], EXPONENT,
                       bits=config.gradient_bits, random=error_random)
    same(error, step.error)
    if len(keep):
        runner.put(Region.GRADIENT, runner.bases[last + 1], step.layers[-1].d, len(keep))
    for index in reversed(range(last + 1)) if len(keep) else ():
        layer = step.layers[index]
        stored, dx = runner.backward(index, len(keep), x_unsigned=x_unsigned or index > 0,
                                     schedule=schedule)
        same(stored, runner.cut(index, layer.weight_gradient))
        if index:
            same(dx, layer.input_gradient)
    for index, layer in enumerate(step.layers):
        master, velocity = runner.get_weights(index)
        same(master, runner.cut(index, layer.weights.master))
        same(velocity, runner.cut(index, layer.weights.velocity))


def median_threshold(case):
    """Return a threshold that keeps about half of the samples."""
    logits = case.step().logits
    return max(1, int(np.median(margins(logits, case.labels))))


def run_case(case, **options):
    runner = Runner(case)
    for index, weight in enumerate(case.weights):
        runner.put_weights(index, weight)
    step = case.step(**{key: value for key, value in options.items() if key != "schedule"})
    assert_same(runner, step, **options)
    return runner, step


@pytest.mark.parametrize("rule", [PLAIN, MOMENTUM], ids=["plain", "momentum"])
@pytest.mark.parametrize("lanes", [(1,), (2,), (4, 1, 2)])
@pytest.mark.parametrize("name", MACHINES)
def test_equals_the_machine(name, lanes, rule, rng):
    # Tiles fill the words exactly here; padded words have a test of their own.
    config = MACHINES[name]
    wide = config.lane_count
    case = make_case(rng, config, (wide, 2 * wide, 2 * wide, 3), lanes=lanes, rule=rule)
    _, step = run_case(case, threshold=median_threshold(case))
    assert 0 < len(step.keep) < len(case.x)
    assert all(layer.weight_gradient.any() for layer in step.layers)


@pytest.mark.parametrize("sizes", [(6, 9, 5, 3), (1, 1, 2), (13, 3), (5, 17, 2)])
@pytest.mark.parametrize("name", ["square", "tall", "wide"])
def test_equals_the_machine_with_padding(name, sizes, rng):
    run_case(make_case(rng, MACHINES[name], sizes, lanes=(4, 2), rule=MOMENTUM))


@pytest.mark.parametrize("schedule", [Schedule.INTERLEAVED, Schedule.SEQUENTIAL])
def test_schedules_compute_the_same(schedule, rng):
    run_case(make_case(rng, TINY, lanes=(2,)), schedule=schedule)


@pytest.mark.parametrize("steps", [1, 2, 3, 31, 32])
def test_equals_the_machine_for_any_batch(steps, rng):
    run_case(make_case(rng, TINY, steps=steps, lanes=(4,)))


def test_unsigned_inputs_and_random_error(rng):
    case = make_case(rng, TINY, lanes=(2,))
    case.x &= 255
    draws = rng.integers(0, 65536, (len(case.x), case.classes))
    run_case(case, x_unsigned=True, error_random=draws)


def test_steps_continue_the_random_bits(rng):
    case = make_case(rng, TINY, lanes=(2, 4), rule=MOMENTUM)
    runner, step = run_case(case)
    for _ in range(2):
        step = case.step(weights=[layer.weights for layer in step.layers], banks=step.banks)
        assert_same(runner, step)
    for bank, lfsr in step.banks.items():
        np.testing.assert_array_equal(runner.machine._lfsrs[bank].state, lfsr.state)


def test_without_a_kept_sample_nothing_moves(rng):
    case = make_case(rng, TINY, lanes=(2,), rule=MOMENTUM)
    case.labels = case.step().logits.argmax(axis=1)
    best = margins(case.step().logits, case.labels)
    case.x = case.x[best > 0]
    case.labels = case.labels[best > 0]
    _, step = run_case(case, threshold=1)
    assert len(case.x)
    assert len(step.keep) == 0
    assert step.error.shape == (0, case.classes)
    for layer, weights in zip(step.layers, case.weights, strict=True):
        assert not layer.weight_gradient.any()
        assert layer.weights is weights
    for bank, lfsr in lfsr_banks(TINY, SEED).items():
        np.testing.assert_array_equal(step.banks[bank].state, lfsr.state)


def test_changes_no_argument(rng):
    case = make_case(rng, TINY, lanes=(2,))
    banks = lfsr_banks(TINY, SEED)
    before = deepcopy((case, banks))
    step = case.step(banks=banks)
    np.testing.assert_array_equal(case.x, before[0].x)
    for old, new, done in zip(before[0].weights, case.weights, step.layers, strict=True):
        np.testing.assert_array_equal(old.master, new.master)
        np.testing.assert_array_equal(old.velocity, new.velocity)
        assert (done.weights.master != new.master).any()
    for bank in banks:
        np.testing.assert_array_equal(banks[bank].state, before[1][bank].state)
        assert (step.banks[bank].state != banks[bank].state).any()


def test_padding_stays_zero(rng):
    case = make_case(rng, MACHINES["tall"], (5, 6, 3), lanes=(2,), rule=MOMENTUM)
    for done, sizes in zip(case.step().layers, [(5, 6), (6, 3)], strict=True):
        weight, _ = split(done.weights.master, case.config.residue_bits)
        for array in (weight, done.weights.velocity, done.weight_gradient):
            assert not array[sizes[0]:].any()
            assert not array[:, sizes[1]:].any()


def test_a_dead_relu_passes_no_gradient(rng):
    step = make_case(rng, TINY).step()
    for layer in step.layers[1:]:
        off = layer.x[step.keep] == 0
        assert off.any()
        assert layer.input_gradient is not None
        assert not layer.input_gradient[off].any()


def test_training_lowers_the_loss(rng):
    config = TINY.with_changes(gradient_bits=16)
    case = make_case(rng, config, (8, 8, 3), steps=32, rule=Rule(gradient_shift=9))
    case.weights = [pad_weights(config, weight.master // 4) for weight in case.weights]
    case.labels = case.x[:, :3].argmax(axis=1)
    step = case.step()
    first = loss.cross_entropy(step.logits, case.labels, EXPONENT)
    for _ in range(60):
        step = case.step(weights=[layer.weights for layer in step.layers], banks=step.banks)
    last = loss.cross_entropy(step.logits, case.labels, EXPONENT)
    assert last < 0.5 * first


def test_fit_and_pad():
    assert fit([[1, 2, 3]], 2).tolist() == [[1, 2]]
    assert fit([[1, 2, 3]], 4).tolist() == [[1, 2, 3, 0]]
    padded = pad_weights(TINY, np.full((3, 5), 7))
    assert padded.master.shape == padded.velocity.shape == (4, 8)
    assert padded.master[:3, :5].tolist() == [[7] * 5] * 3
    middle = 1 << TINY.residue_bits - 1
    assert padded.master[3:].tolist() == [[middle] * 8]
    assert padded.master[:, 5:].tolist() == [[middle] * 3] * 4
    assert not padded.velocity.any()
    assert not split(middle, TINY.residue_bits)[0].any()


def test_sums_saturate_tile_by_tile():
    config = TINY.with_changes(rows=8, gradient_bits=16, accumulator_bits=27)
    master = np.full((8, 32), -128) << config.residue_bits
    d = np.zeros((1, 32), np.int64)
    d[:, :20], d[:, 20:24] = -(1 << 15), 1 << 15
    lfsr = lfsr_banks(config)[Bank.REQUANTIZE]
    dx = input_gradient_layer(config, d, master, 12, lfsr, active=np.full((1, 8), True))
    # Six tiles of four columns: four reach the limit, the fifth stays there, the last goes back.
    assert dx.tolist() == [[(1 << 14) - (1 << 12)] * 8]

    config = config.with_changes(gradient_bits=8, accumulator_bits=24)
    master = np.full((520, 4), -128) << config.residue_bits
    x = np.full((1, 520), -128)
    x[:, 516:] = 128
    # The last eight terms cancel within their tile of eight rows; in halves they would not.
    assert forward_layer(config, x, master, 15, relu=False).tolist() == [[127] * 4]
    assert forward_layer(config, x, master, 15, relu=True).tolist() == [[255] * 4]


def test_errors_name_the_value_and_the_remedy(rng):
    case = make_case(rng, TINY, (4, 8, 3))

    def expect(message, **changes):
        changed = deepcopy(case)
        arguments = {key: changes.pop(key) for key in ("classes", "weights") if key in changes}
        for name, value in changes.items():
            setattr(changed, name, value)
        with pytest.raises(ValueError, match=f"^{message}$"):
            changed.step(**arguments)

    expect("A network needs weights for each of its layers, at least one, not 1 for 2",
           weights=case.weights[:1])
    expect("A network needs weights for each of its layers, at least one, not 0 for 0",
           layers=[], weights=[])
    expect("Weights of layer 1 are 8x3, not whole tiles of 4x4: use pad_weights",
           weights=[case.weights[0], Weights(np.zeros((8, 3)), np.zeros((8, 3)))])
    expect("A step takes 1 to 32 samples, not 33: split the batch",
           x=np.zeros((33, 4)), labels=np.zeros(33))
    expect("A step takes 1 to 32 samples, not 0: split the batch",
           x=np.zeros((0, 4)), labels=np.zeros(0))
    expect("The first layer takes at most 4 features, not 5: give it more weights",
           x=np.zeros((11, 5)))
    expect("classes must be 2 to the last layer's 4 outputs, not 5", classes=5)
    expect("classes must be 2 to the last layer's 4 outputs, not 1", classes=1)
    expect(r"11 samples need as many labels, not \(10,\)", labels=case.labels[:10])
    expect("A label lies between 0 and 2, not 3", labels=np.full(11, 3))
    expect("A label lies between 0 and 2, not -1", labels=np.full(11, -1))
    case.config = TINY.with_changes(lanes=False)
    case.layers[0] = Layer(out_shift=7, lanes=2, rule=PLAIN)
    expect("Layer 0 asks for 2 lanes: the machine has 1")
