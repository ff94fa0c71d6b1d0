"""A memory with one read and one write port: the place where silicon gets its SRAM macro."""

from amaranth import ClockSignal, Instance, Module, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import ceil_log2

from .emit import Emitter

__all__ = ["RAM_VERILOG", "Ram"]

RAM_MODULE = "gradloom_ram"

RAM_VERILOG = f"""\
// One read port, one write port, one clock; a read of the word being written gives the old one.
// Replace this module to use SRAM macros.
module {RAM_MODULE} #(
  parameter DEPTH = 2,
  parameter ADDRESS = 1,
  parameter PARTS = 1,
  parameter PART = 1
) (
  input clk,
  input read_en,
  input [ADDRESS-1:0] read_address,
  output reg [PARTS*PART-1:0] read_data,
  input [PARTS-1:0] write_en,
  input [ADDRESS-1:0] write_address,
  input [PARTS*PART-1:0] write_data
);
  reg [PARTS*PART-1:0] memory [0:DEPTH-1];
  integer part;
  always @(posedge clk) begin
    if (read_en) read_data <= memory[read_address];
    for (part = 0; part < PARTS; part = part + 1)
      if (write_en[part])
        memory[write_address][part*PART +: PART] <= write_data[part*PART +: PART];
  end
endmodule
"""


class Ram(wiring.Component):
    """A memory of `depth` words of `parts` parts that can be written each alone.

    Read data stand from the cycle after `read_en` until the next read. A read sees the writes of
    earlier cycles only. Contents and read data are undefined before the first write and read.

    Parameters
    ----------
    depth, parts, part_bits : int

    Members
    -------
    read_en : In(1), read_address, read_data
    write_en : In(parts), write_address, write_data
    """

    def __init__(self, depth: int, parts: int, part_bits: int):
        self.depth = depth
        self.parts = parts
        self.part_bits = part_bits
        address = ceil_log2(depth)
        super().__init__({
            "read_en": In(1), "read_address": In(address), "read_data": Out(parts * part_bits),
            "write_en": In(parts), "write_address": In(address),
            "write_data": In(parts * part_bits),
        })

    def elaborate(self, platform):
        m = Module()
        if isinstance(platform, Emitter):
            ports = {
                f"{'i' if member.flow == In else 'o'}_{name}": getattr(self, name)
                for name, member in self.signature.members.items()
            }
            m.submodules.macro = Instance(
                RAM_MODULE, p_DEPTH=self.depth, p_ADDRESS=ceil_log2(self.depth),
                p_PARTS=self.parts, p_PART=self.part_bits, i_clk=ClockSignal(), **ports)
            return m
        shape = data.ArrayLayout(unsigned(self.part_bits), self.parts)
        m.submodules.memory = memory = Memory(shape=shape, depth=self.depth, init=[])
        read, write = memory.read_port(), memory.write_port(granularity=1)
        m.d.comb += [
            read.en.eq(self.read_en), read.addr.eq(self.read_address),
            self.read_data.eq(read.data.as_value()),
            write.en.eq(self.write_en), write.addr.eq(self.write_address),
            write.data.as_value().eq(self.write_data),
        ]
        return m
