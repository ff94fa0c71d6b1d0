"""What passes between the machine's core and the AXI shell around it."""
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false

from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config

from .layouts import Request

__all__ = [
    "FAILED_BITS",
    "ReadRequest",
    "WriteDone",
    "WriteRequest",
    "core_members",
    "read_beat",
    "write_beat",
]

FAILED_BITS = 20
"""Width of the index of a descriptor in a list."""


class ReadRequest(data.Struct):
    """A read of `beats` beats from a byte address that is a multiple of a beat's bytes.

    Zero beats stand for 65,536. Low bits of the address below a beat, and those beyond the width
    of the bus, are ignored.
    """

    address: 64
    beats: 16


class WriteRequest(data.Struct):
    """A write of `beats` beats, with the meaning of `ReadRequest`."""

    address: 64
    beats: 16


class WriteDone(data.Struct):
    """The end of one write; `error` if the memory refused any part of it."""

    error: 1


def read_beat(data_bits: int) -> data.StructLayout:
    """Return the layout of one beat that was read.

    `error` says that the memory refused this beat, `last` that it is the last of its request.
    """
    return data.StructLayout({"data": data_bits, "error": 1, "last": 1})


def write_beat(data_bits: int) -> data.StructLayout:
    """Return the layout of one beat to write; a bit of `strobe` writes its byte."""
    return data.StructLayout({"data": data_bits, "strobe": data_bits // 8})


def core_members(config: Config) -> dict:
    """Return the ports of a core that the shell can hold.

    ``requests``, ``responses``
        The host port: accesses to words of `gradloom_golden.program.Region`.
    ``busy``
        Something runs: up in the cycle after `list_start`.
    ``reads``, ``read_data``, ``writes``, ``write_data``, ``write_done``
        The memory. Beats of all reads come in the order of the requests, those of a write are
        taken in that order, and each write is answered once, in order.
    ``list_start``, ``program``
        A pulse starts a list, whose descriptors follow a word at a time.
    ``list_fault``
        Unless zero, the `gradloom_golden.program.Error` for which no more words come. It rises
        after the last word was taken, which is the last of a descriptor.
    ``error``, ``failed``, ``failed_address``
        Of the last program, valid when `busy` falls: an `Error`, the index of the descriptor, and
        for errors of a transfer the memory address.
    ``progress``
        A pulse for every descriptor that ends.
    """
    beat, strobed = read_beat(config.axi_data_bits), write_beat(config.axi_data_bits)
    return {
        "requests": In(stream.Signature(Request)),
        "responses": Out(stream.Signature(32)),
        "busy": Out(1),
        "reads": Out(stream.Signature(ReadRequest)),
        "read_data": In(stream.Signature(beat)),
        "writes": Out(stream.Signature(WriteRequest)),
        "write_data": Out(stream.Signature(strobed)),
        "write_done": In(stream.Signature(WriteDone)),
        "list_start": In(1),
        "program": In(stream.Signature(32)),
        "list_fault": In(8),
        "error": Out(8),
        "failed": Out(FAILED_BITS),
        "failed_address": Out(64),
        "progress": Out(1),
    }
