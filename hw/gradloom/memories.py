"""The buffers of a machine, and who uses which port: units that compute, the mover, the host."""

from functools import partial
from typing import Any

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import wiring

from gradloom_golden.config import Config
from gradloom_golden.program import Region, element_bits, memory_shape

from .buffer import Buffer
from .emit import place_unit
from .mover import Mover, buffer_word, host_word
from .patch import PatchReader
from .ram import Ram
from .scale import Scales

__all__ = ["Memories"]

BANKED = (Region.ACTIVATION, Region.GRADIENT, Region.WEIGHT, Region.STATE)
PLAIN = (Region.PROGRAM, Region.SUMS, Region.LABEL, Region.BIAS, Region.MASK)
IN_PARTS = (Region.ACTIVATION, Region.GRADIENT, Region.MASK)
"""Buffers that are written by parts of a word where the array's edges differ."""


class Memories:
    """Every memory of a machine. Not a component: it places them in the module it is given.

    Parameters
    ----------
    m : Module
    config : Config

    Attributes
    ----------
    buffers : dict of Region to Buffer
    image : PatchReader
    scales : Scales
    keep : dict of str to Ram
        Copies of the keep list, one for each that looks it up: ``x``, ``mask``, ``mover``.
    """

    def __init__(self, m: Module, platform, config: Config):
        self._m = m
        self._config = config
        write_lanes = min(config.rows, config.columns)
        self.buffers: dict[Region, Buffer] = {}
        for region in (*BANKED, *PLAIN):
            depth, lanes, host_bits = memory_shape(config, region)
            self.buffers[region] = self._unit(platform, f"{region.name.lower()}_buffer", partial(
                Buffer, depth, lanes, element_bits(config, region), host_bits=host_bits,
                write_lanes=write_lanes if region in IN_PARTS else lanes,
                banks=config.banks if region in BANKED else 1))
        self.image = self._unit(platform, "image_buffer", partial(PatchReader, config))
        self.scales = self._unit(platform, "scales", partial(Scales, config))
        bits = element_bits(config, Region.KEEP)
        self.keep = {name: Ram(config.steps_depth, 1, bits) for name in ("x", "mask", "mover")}
        for name, copy in self.keep.items():
            m.submodules[f"keep_{name}"] = copy
            m.d.comb += copy.read_en.eq(1)

    def _unit(self, platform, name: str, part: partial) -> Any:
        return place_unit(self._m, platform, name, f"gradloom_{name}", part)

    def reads(self, region: Region, *users: tuple[Value, Value]) -> None:
        """Let `users`, pairs of enable and address of which one at most is enabled, read."""
        buffer = self.buffers[region]
        for enable, address in users:
            with self._m.If(enable):
                self._m.d.comb += [buffer.read_en.eq(1), buffer.read_address.eq(address)]

    def writes(self, region: Region, *users: tuple[Value, Value, Value]) -> None:
        """Let `users`, triples of parts, address and data of which one at most is on, write."""
        buffer = self.buffers[region]
        for parts, address, value in users:
            with self._m.If(parts.any()):
                self._m.d.comb += [
                    buffer.write_parts.eq(parts), buffer.write_address.eq(address),
                    buffer.write_data.as_value().eq(value),
                ]

    def writes_keep(self, *users: tuple[Value, Value, Value]) -> None:
        """Let `users`, triples of enable, address and entry, write the keep list."""
        for enable, address, entry in users:
            with self._m.If(enable):
                for copy in self.keep.values():
                    self._m.d.comb += [
                        copy.write_en.eq(1), copy.write_address.eq(address),
                        copy.write_data.eq(entry),
                    ]

    def connect_mover(self, mover: Mover, active: Value) -> None:
        """Give the mover what the computing units leave."""
        m, config, image = self._m, self._config, self.image
        write, read = mover.buffer_write, mover.buffer_read
        place = read.payload
        address = Signal(len(place.address))
        region = Signal(len(place.region))
        m.d.comb += [
            address.eq(Mux(write.valid, write.payload.place.address, place.address)),
            self.keep["mover"].read_address.eq(mover.keep_address),
            mover.keep_index.eq(self.keep["mover"].read_data),
        ]
        with m.If(read.valid & read.ready):
            m.d.sync += region.eq(place.region)
        with m.Switch(Mux(write.valid, write.payload.place.region, place.region)):
            for where, buffer in self.buffers.items():
                if where in (Region.PROGRAM, Region.SUMS):
                    continue
                with m.Case(where):
                    m.d.comb += [
                        buffer.mover_write.eq(write.valid),
                        buffer.mover_read.eq(read.valid & read.ready & ~write.valid),
                        write.ready.eq(buffer.mover_ready),
                        read.ready.eq(buffer.mover_ready),
                    ]
            with m.Case(Region.IMAGE):
                m.d.comb += [
                    image.write_en.eq(write.valid), write.ready.eq(1),
                    image.word_read_en.eq(read.valid & ~active), read.ready.eq(~active),
                ]
        for where, buffer in self.buffers.items():
            if where in (Region.PROGRAM, Region.SUMS):
                continue
            m.d.comb += [
                buffer.active.eq(active),
                buffer.mover_address.eq(address),
                buffer.mover_data_i.as_value().eq(
                    buffer_word(config, where, write.payload.data)),
            ]
        m.d.comb += [
            image.write_address.eq(address),
            image.write_data.as_value().eq(
                buffer_word(config, Region.IMAGE, write.payload.data)),
            image.word_read_address.eq(address),
        ]
        with m.Switch(region):
            for where, buffer in self.buffers.items():
                if where in (Region.PROGRAM, Region.SUMS):
                    continue
                with m.Case(where):
                    m.d.comb += mover.buffer_data.eq(
                        host_word(config, where, buffer.mover_data_o.as_value()))
            with m.Case(Region.IMAGE):
                m.d.comb += mover.buffer_data.eq(
                    host_word(config, Region.IMAGE, image.word_read_data.as_value()))

    def connect_host(self, port: wiring.Component, region_read: Value) -> None:
        """Give the host its 32-bit window on every memory; `region_read` answers."""
        m = self._m
        windows = {**self.buffers, Region.IMAGE: self.image, Region.SCALE: self.scales}
        with m.Switch(port.region):
            for where, window in windows.items():
                m.d.comb += [window.host_address.eq(port.offset), window.host_data_i.eq(port.data)]
                with m.Case(where):
                    m.d.comb += [window.host_read.eq(port.read), window.host_write.eq(port.write)]
            with m.Case(Region.KEEP):
                self.writes_keep((port.write, port.offset, port.data))
                with m.If(port.read):
                    m.d.comb += self.keep["mask"].read_address.eq(port.offset)
        with m.Switch(region_read):
            for where, window in windows.items():
                with m.Case(where):
                    m.d.comb += port.answer.eq(window.host_data_o)
            with m.Case(Region.KEEP):
                m.d.comb += port.answer.eq(self.keep["mask"].read_data)
