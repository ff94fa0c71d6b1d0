"""The bit-exact definition of GradLoom in NumPy: what every number and every cycle must be.

In the order in which data passes:

- `config` says what a machine is made of; `program` what it is told: descriptors, memory map,
  registers, errors; `program_check` what it refuses.
- `fixed` is the only arithmetic that narrows a number, with random bits from `lfsr`.
- `geometry` walks over the pixels and taps of a convolution, `patch` over those of a first layer;
  `transfer` says how rows of words lie in memory.
- `lanes` packs activations; `gemm` is the three matrix products of a layer, summed as at the edge.
- `confidence` picks the samples worth a gradient, by a threshold that `budget` can choose, or
  `importance` by chance; `loss` turns their logits into D.
- `scale` keeps the exponents of tensors; `vector` pools, adds, and updates biases.
- `optimizer` updates weights where their gradient leaves the array; `precision` measures how
  few activation bits that gradient needs.
- `training` puts these together: a training step of a network, every intermediate in sight.
- `shell` lists the registers around the core.
- `cycles` counts clock cycles, slots, reads and writes of a descriptor.
- `machine` executes programs on buffers, word by word; RTL equals it bit for bit.
"""

from .confidence import NEVER, keep_list, threshold_from_probability
from .config import PRESETS, Config, preset
from .cycles import counts, descriptor_cycles, program_cycles
from .lfsr import Bank, Lfsr
from .machine import GoldenMachine, run_program
from .optimizer import Rule
from .precision import angle_within, bound_from_degrees
from .program import Descriptor, Drain, Error, Opcode, Region, Register, Schedule
from .program_check import check
from .training import Layer, Step, Weights, lfsr_banks, pad_weights, train_step

__all__ = [
    "NEVER", "PRESETS", "Bank", "Config", "Descriptor", "Drain", "Error", "GoldenMachine", "Layer",
    "Lfsr", "Opcode", "Region", "Register", "Rule", "Schedule", "Step", "Weights", "angle_within",
    "bound_from_degrees", "check", "counts", "descriptor_cycles", "keep_list", "lfsr_banks",
    "pad_weights", "preset", "program_cycles", "run_program", "threshold_from_probability",
    "train_step",
]
