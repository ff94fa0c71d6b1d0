"""Registers of the AXI shell: the host and the C header take their layout from here."""

from enum import IntEnum, IntFlag

from .program import DESCRIPTOR_WORDS

__all__ = [
    "LIST_ALIGNMENT", "MAX_LIST", "RESET_KEY", "Interrupt", "ShellRegister", "Status",
]

LIST_ALIGNMENT = 4 * DESCRIPTOR_WORDS
"""Bytes of a descriptor; a list begins at a multiple of them."""

MAX_LIST = 1 << 20
"""Most descriptors of a list."""

RESET_KEY = 0x5253_5421                                   # "RST!"


class ShellRegister(IntEnum):
    """Word offsets in the shell's region. Others do not exist: an access is refused."""

    LIST_LOW = 0                                          # byte address of the list
    LIST_HIGH = 1
    LIST_LIMIT = 2                                        # most descriptors
    LIST_START = 3                                        # write 1: run the list
    STATUS = 4                                            # fields of `Status`
    ERROR_LOW = 5                                         # memory address behind the error
    ERROR_HIGH = 6
    INTERRUPT_ENABLE = 7                                  # bits of `Interrupt`
    INTERRUPT_STATUS = 8                                  # write 1s: clear them
    RESET = 9                                             # write `RESET_KEY`
    WATCHDOG = 10                                         # cycles without progress; 0: off
    ARRAY = 11                                            # 15:0 rows, 31:16 columns
    AXI = 12                                              # 15:0 data bits, 31:16 address bits
    CYCLES_LOW = 13                                       # from start to interrupt, last list
    CYCLES_HIGH = 14


class Interrupt(IntFlag):
    """Reasons of an interrupt."""

    DONE = 1                                              # a list has ended, well or not
    ERROR = 2                                             # it ended with an error


class Status(IntFlag):
    """Flags of the status register; 15:8 is the error, 31:16 the failed descriptor."""

    BUSY = 1
    DONE = 2                                              # ended since the last start
