"""The channels of AXI4 and AXI4-Lite, as streams inside and as flat ports outside."""
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false

from collections.abc import Mapping
from typing import Any

from amaranth import Module, Shape
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import ceil_log2

__all__ = [
    "LITE_ADDRESS_BITS",
    "OKAY",
    "SLVERR",
    "LiteAddress",
    "LiteRead",
    "LiteWrite",
    "WriteAnswer",
    "burst_address",
    "connect_flat",
    "flat_members",
    "lite_channels",
    "master_channels",
    "read_answer",
    "write_beat",
]

OKAY = 0
SLVERR = 2

INCR = 1
NORMAL_MEMORY = 0b0011
"""Cache attribute: bufferable, modifiable, no allocation."""

UNPRIVILEGED = 0
ID_BITS = 1

LITE_ADDRESS_BITS = 26


def burst_address(address_bits: int) -> data.StructLayout:
    """Return the payload of AR and AW: the rest of the channel is constant."""
    return data.StructLayout({"addr": address_bits, "len": 8})


def read_answer(data_bits: int) -> data.StructLayout:
    """Return the payload of R."""
    return data.StructLayout({"data": data_bits, "resp": 2, "last": 1})


def write_beat(data_bits: int) -> data.StructLayout:
    """Return the payload of W."""
    return data.StructLayout({"data": data_bits, "strb": data_bits // 8, "last": 1})


class WriteAnswer(data.Struct):
    """Payload of B."""

    resp: 2


class LiteAddress(data.Struct):
    """Payload of AXI4-Lite's AR and AW."""

    addr: LITE_ADDRESS_BITS


class LiteWrite(data.Struct):
    """Payload of AXI4-Lite's W."""

    data: 32
    strb: 4


class LiteRead(data.Struct):
    """Payload of AXI4-Lite's R."""

    data: 32
    resp: 2


def master_channels(data_bits: int, address_bits: int) -> dict:
    """Return the channels of an AXI4 master, as members of its signature."""
    return {
        "aw": Out(stream.Signature(burst_address(address_bits))),
        "w": Out(stream.Signature(write_beat(data_bits))),
        "b": In(stream.Signature(WriteAnswer)),
        "ar": Out(stream.Signature(burst_address(address_bits))),
        "r": In(stream.Signature(read_answer(data_bits))),
    }


def lite_channels() -> dict:
    """Return the channels of an AXI4-Lite slave, as members of its signature."""
    return {
        "aw": In(stream.Signature(LiteAddress)),
        "w": In(stream.Signature(LiteWrite)),
        "b": Out(stream.Signature(WriteAnswer)),
        "ar": In(stream.Signature(LiteAddress)),
        "r": Out(stream.Signature(LiteRead)),
    }


def flat_members(prefix: str, channels: Mapping[str, wiring.Member], *, full: bool) -> dict:
    """Return ports with the names of the standard, such as ``m_axi_awaddr``.

    Parameters
    ----------
    prefix : str
        Comes before every name.
    channels : mapping of str to Member
        Of `master_channels` or `lite_channels`.
    full : bool
        AXI4: add what AXI4-Lite has not, such as the burst type.
    """
    members = {}
    for name, member in channels.items():
        flow = Out if member.flow == Out else In
        for field, shape in _fields(member):
            members[f"{prefix}{name}{field}"] = flow(shape)
        members[f"{prefix}{name}valid"] = flow(1)
        members[f"{prefix}{name}ready"] = flow.flip()(1)
        if name in ("ar", "aw"):
            members[f"{prefix}{name}prot"] = flow(3)
            if full:
                members |= {f"{prefix}{name}{field}": flow(shape) for field, shape in (
                    ("id", ID_BITS), ("size", 3), ("burst", 2), ("lock", 1), ("cache", 4),
                    ("qos", 4))}
        elif full and name != "w":
            members[f"{prefix}{name}id"] = flow(ID_BITS)
    return members


def connect_flat(m: Module, outside: wiring.Component, prefix: str, inside: wiring.Component,
                 channels: Mapping[str, wiring.Member], *, full: bool) -> None:
    """Wire the ports of `flat_members` on `outside` to the channels of `inside`."""
    for name, member in channels.items():
        channel = getattr(inside, name)
        outward = member.flow == Out

        def wire(field, value, outward=outward, name=name):
            port = getattr(outside, f"{prefix}{name}{field}")
            m.d.comb += port.eq(value) if outward else value.eq(port)

        for field, _ in _fields(member):
            wire(field, channel.payload[field])
        wire("valid", channel.valid)
        wire("ready", channel.ready, not outward)
        if full and outward and name in ("ar", "aw"):
            bytes_log2 = ceil_log2(_data_bits(channels) // 8)
            for field, value in (
                ("id", 0), ("size", bytes_log2), ("burst", INCR), ("lock", 0),
                ("cache", NORMAL_MEMORY), ("prot", UNPRIVILEGED), ("qos", 0),
            ):
                wire(field, value)


def _fields(member: wiring.Member) -> list[tuple[str, Shape]]:
    """Return the names and shapes of a channel's payload."""
    shape: Any = member.signature.members["payload"].shape
    return [(str(name), Shape.cast(field.shape)) for name, field in data.Layout.cast(shape)]


def _data_bits(channels: Mapping[str, wiring.Member]) -> int:
    return dict(_fields(channels["w"]))["data"].width
