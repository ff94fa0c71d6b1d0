"""The machine's AXI4 master."""

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config

from .axi import master_channels
from .axi_reader import AxiReader
from .axi_writer import AxiWriter
from .memory_port import ReadRequest, WriteDone, WriteRequest, read_beat, write_beat

__all__ = ["AxiMaster"]


class AxiMaster(wiring.Component):
    """Reads memory for the core and for the fetcher, and writes it for the core.

    Bursts are incrementing, as wide as the bus, of one ID, and lie within a page. Several are on
    their way at once; beats pass one a cycle without a gap between bursts.

    Parameters
    ----------
    config : Config
    burst_beats : int
        Most beats of a burst.
    outstanding : int
        Most bursts, of reads and of writes, that wait for their answers.

    Members
    -------
    reads, read_data, writes, write_data, write_done
        For the core: of `gradloom.memory_port.core_members`, with directions reversed.
    fetches, fetch_data
        For the fetcher, like `reads` and `read_data`.
    aw, w, b, ar, r
        Of `gradloom.axi.master_channels`.
    drain : In(1)
        Bring the bus to rest: take and give nothing, and let what has begun end without effect.
    idle : Out(1)
        The bus is at rest.
    moved : Out(1)
        A beat passes on some channel.
    """

    def __init__(self, config: Config, *, burst_beats: int = 64, outstanding: int = 4):
        self.config = config
        self.burst_beats = burst_beats
        self.outstanding = outstanding
        beat, strobed = read_beat(config.axi_data_bits), write_beat(config.axi_data_bits)
        super().__init__({
            "reads": In(stream.Signature(ReadRequest)),
            "read_data": Out(stream.Signature(beat)),
            "fetches": In(stream.Signature(ReadRequest)),
            "fetch_data": Out(stream.Signature(beat)),
            "writes": In(stream.Signature(WriteRequest)),
            "write_data": In(stream.Signature(strobed)),
            "write_done": Out(stream.Signature(WriteDone)),
            **master_channels(config.axi_data_bits, config.axi_address_bits),
            "drain": In(1),
            "idle": Out(1),
            "moved": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        widths = self.config.axi_data_bits, self.config.axi_address_bits
        sizes = {"burst_beats": self.burst_beats, "outstanding": self.outstanding}
        m.submodules.reader = reader = AxiReader(*widths, **sizes)
        m.submodules.writer = writer = AxiWriter(*widths, **sizes)
        for ours, theirs in (
            (self.reads, reader.requests[0]), (self.fetches, reader.requests[1]),
            (self.writes, writer.requests), (self.write_data, writer.beats),
            (self.r, reader.r), (self.b, writer.b),
        ):
            wiring.connect(m, wiring.flipped(ours), theirs)
        for theirs, ours in (
            (reader.beats[0], self.read_data), (reader.beats[1], self.fetch_data),
            (writer.done, self.write_done), (reader.ar, self.ar), (writer.aw, self.aw),
            (writer.w, self.w),
        ):
            wiring.connect(m, theirs, wiring.flipped(ours))
        moves = [channel.valid & channel.ready
                 for channel in (self.ar, self.r, self.aw, self.w, self.b)]
        m.d.comb += [
            reader.drain.eq(self.drain),
            writer.drain.eq(self.drain),
            self.idle.eq(reader.idle & writer.idle),
            self.moved.eq(moves[0] | moves[1] | moves[2] | moves[3] | moves[4]),
        ]
        return m
