"""Random programs: descriptors that a machine accepts, and descriptors that it refuses."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from coverage import Coverage, cross
from gradloom_golden.config import Config
from gradloom_golden.importance import MOST, field
from gradloom_golden.program import (
    OFFSET_BITS,
    SCALES,
    Descriptor,
    Drain,
    Error,
    Function,
    Opcode,
    Region,
    Schedule,
    SkipRule,
    memory_shape,
    reserved_masks,
)
from gradloom_golden.program_check import MAX_TILES, WINDOW_FUNCTIONS

__all__ = [
    "BUFFERS",
    "OPCODES",
    "broken_words",
    "buffer_address",
    "buffer_words",
    "cover_program",
    "program_coverage",
    "random_contents",
    "random_descriptor",
    "random_program",
    "vector_edges",
]

BUFFERS = (
    Region.ACTIVATION,
    Region.GRADIENT,
    Region.WEIGHT,
    Region.STATE,
    Region.SUMS,
    Region.KEEP,
    Region.LABEL,
    Region.IMAGE,
    Region.BIAS,
    Region.SCALE,
    Region.MASK,
)
"""What the host can fill and read back besides the program."""

OPCODES = tuple(opcode for opcode in Opcode if opcode not in (Opcode.LOAD, Opcode.SAVE))
"""Those that need no memory behind the machine."""

_CHOICE = [Opcode.FORWARD, *[Opcode.BACKWARD] * 3, *OPCODES]
_EXPONENTS = (-12, 1)
_MOST_LABELS = 20
_TILES = [1, 1, 2, 3, 4]
_USUAL_STEPS = 20
_FLAGS = ("x_unsigned", "relu", "y_unsigned", "stochastic", "keep_sums", "momentum", "mask")


def buffer_address(region: Region) -> int:
    """Return the host's address of the first word of a buffer."""
    return region << OFFSET_BITS


def buffer_words(config: Config, region: Region) -> int:
    """Return how many 32-bit words the host sees in a buffer."""
    depth, elements, host_bits = memory_shape(config, region)
    return depth * elements // min(elements, 32 // host_bits)


def random_contents(rng: np.random.Generator, config: Config, region: Region) -> np.ndarray:
    """Return uint32 words that fill a buffer.

    Labels name few classes, the keep list rows, and the scale table exponents as trained ones are.
    """
    if region == Region.SCALE:
        exponents = rng.integers(*_EXPONENTS, buffer_words(config, region))
        return (exponents & 0xFF).astype(np.uint32)
    limit = {Region.LABEL: _MOST_LABELS, Region.KEEP: config.steps_depth}.get(region, 1 << 32)
    return rng.integers(0, limit, buffer_words(config, region)).astype(np.uint32)


def random_program(
    rng: np.random.Generator, config: Config, length: int, *, longest: int | None = None
) -> list[Descriptor]:
    """Return `length` descriptors; see `random_descriptor`."""
    return [random_descriptor(rng, config, longest=longest) for _ in range(length)]


def random_descriptor(
    rng: np.random.Generator,
    config: Config,
    opcode: Opcode | None = None,
    *,
    longest: int | None = None,
) -> Descriptor:
    """Return a descriptor that the machine accepts and whose regions do not overlap.

    Parameters
    ----------
    opcode : Opcode, optional
        Drawn if absent, backward passes most often.
    longest : int, optional
        Most steps; by default as many as `config` allows.
    """
    opcode = _CHOICE[rng.integers(len(_CHOICE))] if opcode is None else opcode
    if opcode == Opcode.RESCALE:
        return Descriptor(opcode=opcode)
    if opcode == Opcode.THRESHOLD:
        return Descriptor(opcode=opcode, bound=int(rng.integers(0, 1 << 16)))
    if opcode in (Opcode.ANGLE, Opcode.UPDATE):
        return (_angle if opcode == Opcode.ANGLE else _update)(rng, config)
    makers = {Opcode.CONFIDENCE: _confidence, Opcode.LOSS: _loss, Opcode.VECTOR: _vector}
    make = makers.get(opcode, _layer)
    while True:
        steps = _steps(rng, min(longest or config.steps_depth, config.steps_depth))
        if (descriptor := make(rng, config, opcode, steps)) is not None:
            return descriptor


def _steps(rng, longest: int) -> int:
    """Return 1 and `longest` more often than chance would; otherwise mostly few steps."""
    kind = rng.random()
    if kind < 0.2:
        return longest if kind < 0.1 else 1
    return int(rng.integers(1, (longest if kind < 0.4 else min(_USUAL_STEPS, longest)) + 1))


def _flag(rng, probability: float = 0.5) -> int:
    return int(rng.random() < probability)


def _within(rng, room: int) -> int:
    return int(rng.integers(0, room + 1))


def _layer(rng, config: Config, opcode: Opcode, steps: int) -> Descriptor | None:
    """Return a forward or backward descriptor, or None if what was drawn does not fit."""
    forward = opcode == Opcode.FORWARD
    k_tiles, n_tiles = (int(tiles) for tiles in rng.choice(_TILES, 2))
    lanes_log2 = int(rng.integers(0, 3)) if config.lanes and not forward else 0
    x_stride = steps + int(rng.integers(0, 4))
    k_blocks = -(-k_tiles * config.rows // config.lane_count)
    n_blocks = -(-n_tiles * config.columns // config.lane_count)

    x_words = k_blocks * x_stride
    written = n_blocks * steps if forward else k_blocks * -(-steps >> lanes_log2)
    d_words, dx_words = n_blocks * steps, k_blocks * steps
    spare = config.activation_depth - x_words - written
    gradient_spare = config.gradient_depth - d_words - dx_words
    tile_spare = config.weight_depth // config.rows - k_tiles * n_tiles
    if min(spare, gradient_spare, tile_spare) < 0:
        return None
    x_base = _within(rng, spare)
    written_base = x_base + x_words + _within(rng, spare - x_base)
    d_base = _within(rng, gradient_spare)

    common = {
        "opcode": opcode,
        "steps": steps,
        "x_stride": x_stride,
        "k_tiles": k_tiles,
        "n_tiles": n_tiles,
        "x_base": x_base,
        "w_base": _within(rng, tile_spare) * config.rows,
        "x_unsigned": _flag(rng),
        "stochastic": _flag(rng),
        "keep_sums": _flag(rng, 0.2),
        "out_shift": int(rng.integers(4, 14)),
        "measure": _flag(rng),
        **_scales(rng),
    }
    if forward:
        bias = _flag(rng) if n_tiles <= config.bias_depth else 0
        return Descriptor(
            **common, out_base=written_base, relu=_flag(rng), y_unsigned=_flag(rng), bias=bias,
            bias_base=_within(rng, config.bias_depth - n_tiles))
    # The keep list can name any row, and the machine packs while it reads.
    reach = x_base + (k_blocks - 1) * x_stride + config.steps_depth
    return Descriptor(
        **common,
        schedule=int(rng.integers(len(Schedule))),
        drain=int(rng.choice(Drain, p=(0.6, 0.2, 0.2))),
        lanes_log2=lanes_log2,
        gather=_flag(rng) if reach <= written_base else 0,
        mask=_flag(rng),
        momentum=_flag(rng),
        d_base=d_base,
        state_base=_within(rng, tile_spare) * config.rows,
        packed_base=written_base,
        out_base=d_base + d_words + _within(rng, gradient_spare - d_base),
        x_shift=_within(rng, 8 - (8 >> lanes_log2)),
        gradient_shift=int(rng.integers(0, 20)),
        rate_shift=int(rng.integers(0, 8)),
        decay_shift=int(rng.integers(0, 8)),
    )


def _confidence(rng, config: Config, opcode: Opcode, steps: int) -> Descriptor | None:
    classes = int(rng.integers(2, 3 * config.lane_count))
    spare = config.activation_depth - -(-classes // config.lane_count) * steps
    if spare < 0:
        return None
    return Descriptor(
        opcode=opcode,
        steps=steps,
        x_base=_within(rng, spare),
        classes=classes,
        threshold=int(rng.integers(0, 40)),
    )


def _scales(rng) -> dict[str, int]:
    """Return the fields that name exponents."""
    names = ("x_scale", "w_scale", "d_scale", "out_scale", "bias_scale")
    places = {name: int(rng.integers(0, SCALES)) for name in names}
    return {"scaled": _flag(rng), "rate": int(rng.integers(-8, 16)), **places}


def _loss(rng, config: Config, opcode: Opcode, steps: int) -> Descriptor | None:
    classes = int(rng.integers(2, 3 * config.lane_count))
    words = -(-classes // config.lane_count)
    x_stride, out_stride = (steps + int(extra) for extra in rng.integers(0, 4, 2))
    spare = config.activation_depth - words * x_stride
    gradient_spare = config.gradient_depth - words * out_stride
    if min(spare, gradient_spare) < 0:
        return None
    function = int(rng.choice(SkipRule))
    threshold = int(rng.choice([0, 3, 20000, 65535]))
    if function == SkipRule.IMPORTANCE:
        threshold = field(int(rng.integers(MOST + 1)), int(rng.integers(3)))
    return Descriptor(
        opcode=opcode,
        steps=steps,
        classes=classes,
        x_base=_within(rng, spare),
        x_stride=x_stride,
        out_base=_within(rng, gradient_spare),
        out_stride=out_stride,
        function=function,
        threshold=threshold,
        schedule=_flag(rng, 0.2),
        first=1,
        stochastic=_flag(rng),
        **_scales(rng),
    )


def _update(rng, config: Config) -> Descriptor:
    rows = int(rng.integers(1, 9))
    spare = config.weight_depth - rows
    state_base = _within(rng, spare - rows)
    return Descriptor(
        opcode=Opcode.UPDATE,
        rows=rows,
        w_base=_within(rng, spare),
        state_base=state_base,
        packed_base=state_base + rows + _within(rng, spare - rows - state_base),
        momentum=_flag(rng),
        gradient_shift=int(rng.integers(0, 20)),
        rate_shift=int(rng.integers(0, 8)),
        decay_shift=int(rng.integers(0, 8)),
        **_scales(rng),
    )


def _vector(rng, config: Config, opcode: Opcode, steps: int) -> Descriptor | None:
    make = (_bias_update, _addition, _windows, _windows)[rng.integers(4)]
    return make(rng, config, opcode, steps)


def _bias_update(rng, config: Config, opcode: Opcode, steps: int) -> Descriptor | None:
    """Return a bias update, perhaps one of several chunks."""
    n_tiles = min(int(rng.choice(_TILES)), config.bias_depth)
    words = -(-n_tiles * config.columns // config.lane_count)
    spare = config.gradient_depth - words * steps
    return None if spare < 0 else Descriptor(
        opcode=opcode, function=Function.BIAS_UPDATE, steps=steps, k_tiles=1, n_tiles=n_tiles,
        d_base=_within(rng, spare), d_stride=steps, first=_flag(rng), last=_flag(rng, 0.7),
        bias_base=_within(rng, config.bias_depth - n_tiles), stochastic=_flag(rng),
        gradient_shift=int(rng.integers(0, 12)), **_scales(rng))


def _addition(rng, config: Config, opcode: Opcode, steps: int) -> Descriptor | None:
    """Return a residual addition."""
    blocks = int(rng.integers(1, 4))
    gradients = _flag(rng)
    depth = config.gradient_depth if gradients else config.activation_depth
    size = blocks * steps
    spare = depth - 3 * size
    mask_spare = config.activation_depth - size
    if min(spare, mask_spare) < 0:
        return None
    gaps = sorted(_within(rng, spare) for _ in range(3))
    first, second, out = (size * place + gap for place, gap in enumerate(gaps))
    return Descriptor(
        opcode=opcode, function=Function.ADD, steps=steps, k_tiles=blocks, gradients=gradients,
        x_base=first, x_stride=steps, d_base=second, d_stride=steps, out_base=out,
        out_stride=steps, packed_base=_within(rng, mask_spare), w_block=steps,
        mask=_flag(rng) if gradients else 0, relu=0 if gradients else _flag(rng),
        x_unsigned=_flag(rng), d_unsigned=_flag(rng), y_unsigned=_flag(rng),
        stochastic=_flag(rng), measure=_flag(rng), out_shift=int(rng.integers(0, 6)),
        gradient_shift=int(rng.integers(0, 4)), rate_shift=int(rng.integers(0, 4)),
        **_scales(rng))


def _windows(rng, config: Config, opcode: Opcode, steps: int) -> Descriptor | None:
    """Return pooling, its gradient, or a fill, over windows of images that may be padded."""
    function = Function(rng.choice(WINDOW_FUNCTIONS))
    hands_back = function in (Function.MAXIMUM_GRADIENT, Function.AVERAGE_GRADIENT)
    t_y, t_x, taps_y, taps_x = (int(count) for count in rng.integers(1, 4, 4))
    # Windows that hand gradients back do not overlap.
    step_y, step_x = (taps_y, taps_x) if hands_back else (int(n) for n in rng.integers(1, 4, 2))
    pad_y, pad_x = _within(rng, taps_y - 1), _within(rng, taps_x - 1)
    height = max(1, (t_y - 1) * step_y + taps_y - 2 * pad_y + _flag(rng))
    width = max(1, (t_x - 1) * step_x + taps_x - 2 * pad_x + _flag(rng))
    blocks = int(rng.integers(1, 4))
    walked = -(-steps // (t_y * t_x)) * height * width + _within(rng, 3)
    in_order = steps + _within(rng, 3)
    activation, gradient = config.activation_depth, config.gradient_depth
    gradients = _flag(rng)
    out_stride = walked if hands_back or function == Function.FILL else in_order
    on_gradients = hands_back or (function == Function.FILL and gradients)
    read = in_order if hands_back else walked
    spare = (gradient if on_gradients else activation) - blocks * (read + out_stride)
    mask_spare = activation - blocks * max(walked, in_order)
    if min(spare, mask_spare) < 0:
        return None
    # What is read lies before what is written to the same buffer.
    first = _within(rng, spare)
    out_base = first + blocks * read + _within(rng, spare - first)
    return Descriptor(
        opcode=opcode, function=function, steps=steps, k_tiles=blocks, gradients=gradients,
        t_y=t_y, t_x=t_x, taps_y=taps_y, taps_x=taps_x, y_step=step_y, x_step=step_x,
        x_pixel=step_x, x_row=step_y * width, x_image=height * width, tap_row=width, tap_pixel=1,
        x_offset=-pad_y * width - pad_x, y_first=-pad_y, x_first=-pad_x, y_limit=height,
        x_limit=width, tap_dy=1, tap_dx=1, pixels=t_y * t_x,
        x_base=_within(rng, mask_spare) if hands_back else first, x_stride=walked,
        d_base=first if hands_back else 0, d_stride=in_order,
        packed_base=_within(rng, mask_spare), w_block=in_order,
        out_base=out_base, out_stride=out_stride,
        gather=_flag(rng), first_sample=_within(rng, 3), mask=_flag(rng), relu=_flag(rng),
        x_unsigned=_flag(rng), y_unsigned=_flag(rng), stochastic=_flag(rng), measure=_flag(rng),
        factor=int(rng.choice([0, 1, 37, 255])), out_shift=int(rng.integers(0, 11)),
        **_scales(rng))


def _sides(config: Config, d: Descriptor) -> list[tuple[str, int, Region]]:
    """Return the bases of a VECTOR descriptor, the words behind each, and the buffer it is in."""
    if d.function == Function.BIAS_UPDATE:
        words = -(-d.n_tiles // (config.lane_count // config.columns))
        return [("d_base", words * d.d_stride, Region.GRADIENT),
                ("bias_base", d.n_tiles, Region.BIAS)]
    activation, gradient = Region.ACTIVATION, Region.GRADIENT
    chosen = gradient if d.gradients else activation
    x, packed, given, out = {
        Function.ADD: (chosen, Region.MASK if d.gradients and d.mask else None, chosen, chosen),
        Function.MAXIMUM: (activation, None, None, activation),
        Function.AVERAGE: (activation, None, None, activation),
        Function.MAXIMUM_GRADIENT: (activation, activation, gradient, gradient),
        Function.AVERAGE_GRADIENT: (Region.MASK if d.mask else None, None, gradient, gradient),
        Function.FILL: (None, None, None, chosen),
    }[Function(d.function)]
    sides = (("x_base", d.x_stride, x), ("packed_base", d.w_block, packed),
             ("d_base", d.d_stride, given), ("out_base", d.out_stride, out))
    return [(base, d.k_tiles * stride, region) for base, stride, region in sides
            if region is not None]


def vector_edges(
    rng: np.random.Generator, config: Config
) -> list[tuple[Descriptor, Descriptor, Region]]:
    """Return, for each buffer that a random VECTOR reaches, it at the buffer's end and beyond.

    The first of a pair ends with the last word of the buffer, and its regions may overlap; the
    second goes on behind it, by one word or by more.
    """
    good = random_descriptor(rng, config, Opcode.VECTOR)
    found = []
    for base, words, region in _sides(config, good):
        last = memory_shape(config, region)[0] - words
        # A base of biases has few bits.
        most = 255 - last if base == "bias_base" else (1 << 32) - 1 - last
        beyond = last + (1 if _flag(rng) else int(rng.integers(1, most + 1)))
        found.append((replace(good, **{base: last}), replace(good, **{base: beyond}), region))
    return found


def _angle(rng, config: Config) -> Descriptor:
    rows = int(rng.integers(1, 9))
    spare = config.weight_depth - rows
    state_base = _within(rng, spare)
    return Descriptor(
        opcode=Opcode.ANGLE,
        state_base=state_base,
        packed_base=state_base if rng.random() < 0.5 else _within(rng, spare),
        rows=rows,
        first=_flag(rng),
        last=_flag(rng),
        fresh=_flag(rng),
        bound=int(rng.integers(0, 1 << 16)),
        tested_bits=int(rng.choice([2, 4])),
    )


def broken_words(rng: np.random.Generator, config: Config, error: Error) -> list[int]:
    """Return the words of a descriptor that the machine refuses with `error`.

    Raises
    ------
    ValueError
        No descriptor is refused with `error`.
    """
    chooser, choices = ((Opcode.VECTOR, Function), (Opcode.LOSS, SkipRule))[rng.integers(2)]
    breaks: dict[Error, tuple[Opcode, dict[str, int]]] = {
        Error.OPCODE: (Opcode.ANGLE, {"opcode": int(rng.choice([0, 12, 15]))}),
        Error.RESERVED: (Opcode.FORWARD, {}),
        Error.LANES: (Opcode.FORWARD, {"lanes_log2": int(rng.integers(1, 4))}),
        Error.STEPS: (Opcode.BACKWARD, {"steps": int(rng.choice([0, config.steps_depth + 1]))}),
        Error.TILES: (Opcode.BACKWARD, {"n_tiles": int(rng.choice([0, MAX_TILES + 1]))}),
        Error.SHIFT: (Opcode.FORWARD, {"x_shift": int(rng.integers(1, 8))}),
        Error.ALIGNMENT: (Opcode.FORWARD, {"w_base": int(rng.integers(1, config.rows))}),
        Error.ACTIVATION_RANGE: (Opcode.FORWARD, {"x_base": config.activation_depth}),
        Error.GRADIENT_RANGE: (Opcode.BACKWARD, {"d_base": config.gradient_depth}),
        Error.WEIGHT_RANGE: (Opcode.FORWARD, {"w_base": config.weight_depth}),
        Error.STATE_RANGE: (Opcode.ANGLE, {"packed_base": (1 << 32) - 1}),
        Error.CLASSES: (
            Opcode.CONFIDENCE,
            {"classes": int(rng.choice([0, 1, MAX_TILES * config.columns + 1]))},
        ),
        Error.GEOMETRY: (Opcode.FORWARD, {"conv": 1, "t_x": 0}),
        Error.BIAS_RANGE: (Opcode.FORWARD, {"bias": 1, "bias_base": config.bias_depth}),
        Error.FUNCTION: (chooser, {"function": int(rng.integers(max(choices) + 1, 16))}),
    }
    if error not in breaks:
        raise ValueError(f"No descriptor is refused with {error.name}; choose another error")
    opcode, changes = breaks[error]
    good = random_descriptor(rng, config, opcode)
    fields = {name: getattr(good, name) for name in good.__slots__}
    words = Descriptor(**{**fields, **changes}).encode()
    if error == Error.RESERVED:
        places = [(w, b) for w, m in enumerate(reserved_masks()) for b in range(32) if m >> b & 1]
        word, bit = places[rng.integers(len(places))]
        words[word] |= 1 << bit
    return words


def program_coverage(config: Config) -> Coverage:
    """Return the bins that random programs must fill on a machine of that configuration."""
    lanes = (1, 2, 4) if config.lanes else (1,)
    schedules = [schedule.name for schedule in Schedule]
    with_os = [s.name for s in Schedule if s != Schedule.INPUT_GRADIENT]
    with_ws = [s.name for s in Schedule if s != Schedule.WEIGHT_GRADIENT]
    drains = [drain.name for drain in Drain]
    return Coverage(
        {
            "opcode": [opcode.name for opcode in OPCODES],
            "schedule x lanes": cross(schedules, lanes),
            "schedule x drain": cross(with_os, drains),
            "schedule x tiles": cross(schedules, ("one", "many")),
            "schedule x gather x mask": cross(with_ws, (0, 1), (0, 1)),
            "lanes x group": cross(lanes[1:], ("whole", "ragged")),
            **{flag: (0, 1) for flag in _FLAGS},
            "forward tiles": cross(("one k", "many k"), ("one n", "many n")),
            "steps": ("one", "few", "hides a load", "most"),
            "confidence blocks": ("one", "many"),
            "angle first x last": cross((0, 1), (0, 1)),
            "after": cross([o.name for o in OPCODES], [o.name for o in OPCODES]),
            "function": [function.name for function in Function],
            "skip rule": [rule.name for rule in SkipRule],
            "scaled": (0, 1),
        }
    )


def cover_program(coverage: Coverage, config: Config, program: Iterable[Descriptor]) -> None:
    """Count a program that ran in the bins of `program_coverage`."""
    before = None
    for d in program:
        opcode = Opcode(d.opcode).name
        coverage.hit("opcode", opcode)
        if before is not None:
            coverage.hit("after", before, opcode)
        before = opcode
        coverage.hit("scaled", d.scaled)
        if d.opcode == Opcode.VECTOR:
            coverage.hit("function", Function(d.function).name)
        elif d.opcode == Opcode.LOSS:
            coverage.hit("skip rule", SkipRule(d.function).name)
        elif d.opcode == Opcode.ANGLE:
            coverage.hit("angle first x last", d.first, d.last)
        elif d.opcode == Opcode.CONFIDENCE:
            coverage.hit("confidence blocks", "one" if d.classes <= config.lane_count else "many")
        elif d.opcode in (Opcode.FORWARD, Opcode.BACKWARD):
            _cover_layer(coverage, config, d)


def _cover_layer(coverage: Coverage, config: Config, d: Descriptor) -> None:
    for name in ("x_unsigned", "stochastic", "keep_sums"):
        coverage.hit(name, getattr(d, name))
    kinds = (
        (d.steps == 1, "one"),
        (d.steps == config.steps_depth, "most"),
        (d.steps >= 2 * config.rows, "hides a load"),
    )
    coverage.hit("steps", next((name for holds, name in kinds if holds), "few"))
    if d.opcode == Opcode.FORWARD:
        coverage.hit("relu", d.relu)
        coverage.hit("y_unsigned", d.y_unsigned)
        coverage.hit(
            "forward tiles",
            "one k" if d.k_tiles == 1 else "many k",
            "one n" if d.n_tiles == 1 else "many n",
        )
        return
    schedule, lanes = Schedule(d.schedule), 1 << d.lanes_log2
    coverage.hit("mask", d.mask)
    coverage.hit("schedule x lanes", schedule.name, lanes)
    coverage.hit("schedule x tiles", schedule.name, "one" if d.k_tiles * d.n_tiles == 1 else "many")
    if schedule != Schedule.WEIGHT_GRADIENT:
        coverage.hit("schedule x gather x mask", schedule.name, d.gather, d.mask)
    if schedule != Schedule.INPUT_GRADIENT:
        coverage.hit("schedule x drain", schedule.name, Drain(d.drain).name)
        coverage.hit("momentum", d.momentum)
        if lanes > 1:
            coverage.hit("lanes x group", lanes, "ragged" if d.steps % lanes else "whole")
