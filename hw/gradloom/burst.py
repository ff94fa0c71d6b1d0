"""Cuts a long transfer into bursts."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import ceil_log2

from .memory_port import ReadRequest

__all__ = ["PAGE_BYTES", "BurstSplitter", "burst_layout"]

PAGE_BYTES = 4096
"""A burst lies within one block of this size."""

MOST_BEATS = 256


def burst_layout(address_bits: int) -> data.StructLayout:
    """Return the layout of one burst: byte address, beats less one, end of its request."""
    return data.StructLayout({"addr": address_bits, "len": 8, "last": 1})


class BurstSplitter(wiring.Component):
    """Turns one request into bursts that end at multiples of the longest burst.

    So no burst crosses a page, and all but the first and last have full length. The first burst
    comes in the cycle after the request was taken, then one a cycle; the next request is taken
    with the last.

    Parameters
    ----------
    data_bits, address_bits : int
        Widths of the bus.
    burst_beats : int
        Most beats of a burst: a power of two, at most 256 and at most a page.

    Members
    -------
    requests : In(stream.Signature(ReadRequest))
    bursts : Out(stream.Signature(burst_layout(address_bits)))
    clear : In(1)
        Forget the request and take none.

    Raises
    ------
    ValueError
        If `burst_beats` is out of range.
    """

    def __init__(self, data_bits: int, address_bits: int, burst_beats: int):
        self.beat_bytes = data_bits // 8
        self.address_bits = address_bits
        self.burst_beats = burst_beats
        most = min(MOST_BEATS, PAGE_BYTES // self.beat_bytes)
        if not (1 <= burst_beats <= most and burst_beats & (burst_beats - 1) == 0):
            raise ValueError(
                f"burst_beats must be a power of two from 1 to {most}, not {burst_beats!r}")
        super().__init__({
            "requests": In(stream.Signature(ReadRequest)),
            "bursts": Out(stream.Signature(burst_layout(address_bits))),
            "clear": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        low = ceil_log2(self.beat_bytes)
        burst = self.bursts.payload
        active = Signal()
        address = Signal(self.address_bits - low)         # in beats
        # Both are one less than the beats they stand for: no state is illegal.
        remaining = Signal(16)
        room = Signal(ceil_log2(self.burst_beats))
        beats = Signal(range(self.burst_beats + 1))
        m.d.comb += [
            room.eq(~address[:len(room)]),
            burst.last.eq(remaining <= room),
            burst.len.eq(Mux(burst.last, remaining, room)),
            burst.addr[low:].eq(address),
            beats.eq(burst.len + 1),
            self.bursts.valid.eq(active),
            self.requests.ready.eq(~self.clear & (~active | (self.bursts.ready & burst.last))),
        ]
        with m.If(active & self.bursts.ready):
            m.d.sync += [
                address.eq(address + beats), remaining.eq(remaining - beats),
                active.eq(~burst.last),
            ]
        with m.If(self.requests.valid & self.requests.ready):
            request = self.requests.payload
            m.d.sync += [
                active.eq(1), address.eq(request.address[low:self.address_bits]),
                remaining.eq(request.beats - 1),
            ]
        with m.If(self.clear):
            m.d.sync += active.eq(0)
        return m
