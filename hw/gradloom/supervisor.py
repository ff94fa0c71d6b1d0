"""The shell's registers, and what runs, stops and resets the core."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.program import OFFSET_BITS, Error
from gradloom_golden.shell import LIST_ALIGNMENT, RESET_KEY, Interrupt, ShellRegister

from .memory_port import FAILED_BITS

__all__ = ["Supervisor"]

class Phase(enum.Enum):
    """Of the list that runs."""

    IDLE = 0
    START = 1
    RUN = 2
    CLOSE = 3
    DRAIN = 4


TRANSFER_ERRORS = (
    Error.MEMORY_ALIGNMENT, Error.MEMORY_RANGE, Error.READ_RESPONSE, Error.WRITE_RESPONSE)


class Supervisor(wiring.Component):
    """Runs one list at a time and keeps how it ended.

    A list has ended when the core is no longer busy and all that the fetcher read ahead has come.
    A reset, of the host or of the watchdog, first brings the bus to rest; the status is busy
    until then.

    Parameters
    ----------
    config : Config

    Members
    -------
    write, write_offset, write_data, write_refused, read_offset, read_data, read_refused
        Of `gradloom.axi_lite.AxiLite`, with directions reversed; the registers are
        `gradloom_golden.shell.ShellRegister`. Refused are registers that do not exist, writes of
        those that only tell, a wrong reset key, and a start while busy.
    list_start : Out(1), list_address : Out(64), list_limit : Out(32)
    stop : Out(1)
        No list runs.
    core_busy : In(1), error : In(8), failed : In(20), failed_address : In(64), progress : In(1)
        Of `gradloom.memory_port.core_members`.
    list_fault : In(8), fault_address : In(64), fetch_idle : In(1)
        Of `gradloom.fetcher.Fetcher`.
    drain : Out(1)
        Bring the bus to rest; core and fetcher are in reset.
    bus_idle : In(1), moved : In(1)
        Of `gradloom.axi_master.AxiMaster`.
    interrupt : Out(1)
        A reason that is enabled stands; a register.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "write": In(1),
            "write_offset": In(OFFSET_BITS),
            "write_data": In(32),
            "write_refused": Out(1),
            "read_offset": In(OFFSET_BITS),
            "read_data": Out(32),
            "read_refused": Out(1),
            "list_start": Out(1),
            "list_address": Out(64),
            "list_limit": Out(32),
            "stop": Out(1),
            "core_busy": In(1),
            "error": In(8),
            "failed": In(FAILED_BITS),
            "failed_address": In(64),
            "progress": In(1),
            "list_fault": In(8),
            "fault_address": In(64),
            "fetch_idle": In(1),
            "drain": Out(1),
            "bus_idle": In(1),
            "moved": In(1),
            "interrupt": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        self.ended_error = Signal(8)
        self.ended_failed = Signal(FAILED_BITS)
        self.ended_address = Signal(64)
        self.done = Signal()
        self.busy = Signal()
        self.enabled = Signal(len(Interrupt))
        self.standing = Signal(len(Interrupt))
        self.watchdog = Signal(32)
        self.cycles = Signal(64)
        self.reset = Signal()
        self._registers(m)
        expired = self._watchdog(m)
        self._life(m, expired)
        self._reset(m)
        m.d.sync += self.interrupt.eq((self.standing & self.enabled).any())
        return m

    def _registers(self, m):
        config, data = self.config, self.write_data
        starts = Signal()
        status = Cat(self.busy, self.done, Const(0, 6), self.ended_error, self.ended_failed[:16])
        values = {
            ShellRegister.LIST_LOW: self.list_address[:32],
            ShellRegister.LIST_HIGH: self.list_address[32:],
            ShellRegister.LIST_LIMIT: self.list_limit,
            ShellRegister.LIST_START: 0,
            ShellRegister.STATUS: status,
            ShellRegister.ERROR_LOW: self.ended_address[:32],
            ShellRegister.ERROR_HIGH: self.ended_address[32:],
            ShellRegister.INTERRUPT_ENABLE: self.enabled,
            ShellRegister.INTERRUPT_STATUS: self.standing,
            ShellRegister.RESET: 0,
            ShellRegister.WATCHDOG: self.watchdog,
            ShellRegister.ARRAY: config.rows | config.columns << 16,
            ShellRegister.AXI: config.axi_data_bits | config.axi_address_bits << 16,
            ShellRegister.CYCLES_LOW: self.cycles[:32],
            ShellRegister.CYCLES_HIGH: self.cycles[32:],
        }
        with m.Switch(self.read_offset):
            for register, value in values.items():
                with m.Case(register):
                    m.d.comb += self.read_data.eq(value)
            with m.Default():
                m.d.comb += self.read_refused.eq(1)
        m.d.comb += self.list_start.eq(self.write & starts)
        with m.Switch(self.write_offset):
            for register, target in (
                (ShellRegister.LIST_LOW, self.list_address[:32]),
                (ShellRegister.LIST_HIGH, self.list_address[32:]),
                (ShellRegister.LIST_LIMIT, self.list_limit),
                (ShellRegister.INTERRUPT_ENABLE, self.enabled),
                (ShellRegister.WATCHDOG, self.watchdog),
            ):
                with m.Case(register), m.If(self.write):
                    m.d.sync += target.eq(data)
            with m.Case(ShellRegister.INTERRUPT_STATUS), m.If(self.write):
                m.d.sync += self.standing.eq(self.standing & ~data)
            with m.Case(ShellRegister.LIST_START):
                m.d.comb += [
                    starts.eq(data[0] & ~self.busy), self.write_refused.eq(data[0] & self.busy)]
            with m.Case(ShellRegister.RESET):
                m.d.comb += [
                    self.reset.eq(self.write & (data == RESET_KEY)),
                    self.write_refused.eq(data != RESET_KEY),
                ]
            with m.Default():
                m.d.comb += self.write_refused.eq(1)

    def _watchdog(self, m):
        """Return the pulse that ends what has shown no progress for too long."""
        quiet = Signal(32)
        expired = Signal()
        m.d.comb += expired.eq((self.watchdog != 0) & (quiet >= self.watchdog) & ~self.drain)
        m.d.sync += quiet.eq(quiet + 1)
        with m.If(~self.busy | self.drain | self.moved | self.progress | expired):
            m.d.sync += quiet.eq(0)
        return expired

    def _life(self, m, expired):
        """Follow a list from its start to its end, or to the rest of the bus."""
        phase = Signal(Phase)
        base = Signal(64)
        completed = Signal(FAILED_BITS)
        runs = Signal()
        m.d.comb += [
            runs.eq((phase != Phase.IDLE) & (phase != Phase.DRAIN)),
            self.busy.eq(self.core_busy | (phase != Phase.IDLE)),
            self.stop.eq((phase != Phase.START) & (phase != Phase.RUN)),
            self.drain.eq(phase == Phase.DRAIN),
        ]
        m.d.sync += [
            self.cycles.eq(self.cycles + runs),
            completed.eq(completed + self.progress),
        ]
        with m.Switch(phase):
            with m.Case(Phase.IDLE), m.If(self.list_start):
                m.d.sync += [
                    phase.eq(Phase.START), base.eq(self.list_address), completed.eq(0),
                    self.cycles.eq(0), self.done.eq(0),
                ]
                self._end(m, Error.NONE, 0, 0)
            with m.Case(Phase.START):
                # The core is busy from the next cycle.
                m.d.sync += phase.eq(Phase.RUN)
            with m.Case(Phase.RUN), m.If(~self.core_busy):
                self._end(m, self.error, self.failed, self._error_address(m, base))
                m.d.sync += phase.eq(Phase.CLOSE)
            with m.Case(Phase.CLOSE), m.If(self.fetch_idle):
                self._interrupt(m, self.ended_error != Error.NONE)
                m.d.sync += phase.eq(Phase.IDLE)
            with m.Case(Phase.DRAIN), m.If(self.bus_idle):
                m.d.sync += phase.eq(Phase.IDLE)
        with m.If(expired):
            self._end(m, Error.WATCHDOG, completed,
                      Mux(runs, base + (completed << ceil_log2(LIST_ALIGNMENT)), 0))
            self._interrupt(m, 1)
        with m.If(expired | self.reset):
            m.d.sync += phase.eq(Phase.DRAIN)

    def _end(self, m, error, failed, address):
        m.d.sync += [
            self.ended_error.eq(error), self.ended_failed.eq(failed),
            self.ended_address.eq(address),
        ]

    def _interrupt(self, m, is_error):
        m.d.sync += [
            self.done.eq(1),
            self.standing.eq(
                self.standing | Interrupt.DONE | Mux(is_error, Interrupt.ERROR, 0)),
        ]

    def _error_address(self, m, base):
        """Return the address behind the core's error: of a transfer, or of the descriptor."""
        address = Signal(64)
        with m.If(self.error == Error.NONE):
            m.d.comb += address.eq(0)
        with m.Elif(self.error == self.list_fault):
            m.d.comb += address.eq(self.fault_address)
        with m.Elif(self.error.matches(*TRANSFER_ERRORS)):
            m.d.comb += address.eq(self.failed_address)
        with m.Else():
            m.d.comb += address.eq(base + (self.failed << ceil_log2(LIST_ALIGNMENT)))
        return address

    def _reset(self, m):
        """Forget everything but the registers that the reset itself needs."""
        with m.If(self.reset):
            m.d.sync += [register.eq(0) for register in (
                self.list_address, self.list_limit, self.ended_error, self.ended_failed,
                self.ended_address, self.done, self.enabled, self.standing, self.watchdog,
                self.cycles)]
