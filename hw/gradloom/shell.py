"""The accelerator as it goes into a system: an AXI4 master, an AXI4-Lite slave, an interrupt."""

from collections.abc import Callable
from functools import partial

from amaranth import ClockDomain, ClockSignal, DomainRenamer, Module, ResetInserter, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from gradloom_golden.config import Config

from .axi import connect_flat, flat_members, lite_channels, master_channels
from .axi_lite import AxiLite
from .axi_master import AxiMaster
from .emit import Emitter, place_unit
from .fetcher import Fetcher
from .supervisor import Supervisor

__all__ = ["Shell"]

MASTER = "m_axi_"
LITE = "s_axil_"


class Shell(wiring.Component):
    """A core with memory, a list of descriptors and control on standard buses.

    Parameters
    ----------
    config : Config
    core : callable
        Makes, from `config`, a component with the ports of `gradloom.memory_port.core_members`.

    Members
    -------
    m_axi_awaddr, ...
        AXI4 master of `config.axi_data_bits` and `config.axi_address_bits`.
    s_axil_awaddr, ...
        AXI4-Lite slave of 32 data and 26 address bits.
    irq : Out(1)
        High while an interrupt that is enabled stands.
    """

    def __init__(self, config: Config, core: Callable[[Config], wiring.Component]):
        self.config = config
        self.core = core
        self.master_channels = master_channels(config.axi_data_bits, config.axi_address_bits)
        super().__init__({
            **flat_members(MASTER, self.master_channels, full=True),
            **flat_members(LITE, lite_channels(), full=False),
            "irq": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        master = place_unit(
            m, platform, "master", "gradloom_axi_master", partial(AxiMaster, config))
        lite = place_unit(m, platform, "lite", "gradloom_axi_lite", partial(AxiLite))
        supervisor = place_unit(
            m, platform, "supervisor", "gradloom_supervisor", partial(Supervisor, config))

        zone = Module()
        core = place_unit(zone, platform, "core", "gradloom_core", partial(self.core, config))
        fetcher = place_unit(
            zone, platform, "fetcher", "gradloom_fetcher", partial(Fetcher, config))
        m.submodules.zone = self._with_reset(m, platform, zone, supervisor.drain)

        connect_flat(m, self, MASTER, master, self.master_channels, full=True)
        connect_flat(m, self, LITE, lite, lite_channels(), full=False)
        self._memory(m, master, core, fetcher)
        self._control(m, lite, supervisor, core)
        self._list(m, master, supervisor, core, fetcher)
        m.d.comb += self.irq.eq(supervisor.interrupt)
        return m

    def _with_reset(self, m, platform, zone, reset):
        """Return the zone with a reset of its own."""
        if not isinstance(platform, Emitter):
            return ResetInserter(reset)(zone)
        # An Instance takes its reset as a port.
        m.domains.core = ClockDomain(local=True)
        m.d.comb += [
            ClockSignal("core").eq(ClockSignal()),
            ResetSignal("core").eq(ResetSignal() | reset),
        ]
        return DomainRenamer("core")(zone)

    def _memory(self, m, master, core, fetcher):
        for source, target in (
            (core.reads, master.reads), (master.read_data, core.read_data),
            (core.writes, master.writes), (core.write_data, master.write_data),
            (master.write_done, core.write_done),
            (fetcher.reads, master.fetches), (master.fetch_data, fetcher.read_data),
        ):
            wiring.connect(m, source, target)

    def _control(self, m, lite, supervisor, core):
        wiring.connect(m, lite.requests, core.requests)
        wiring.connect(m, core.responses, lite.responses)
        m.d.comb += [
            lite.core_reset.eq(supervisor.drain),
            supervisor.write.eq(lite.write),
            supervisor.write_offset.eq(lite.write_offset),
            supervisor.write_data.eq(lite.write_data),
            lite.write_refused.eq(supervisor.write_refused),
            supervisor.read_offset.eq(lite.read_offset),
            lite.read_data.eq(supervisor.read_data),
            lite.read_refused.eq(supervisor.read_refused),
        ]

    def _list(self, m, master, supervisor, core, fetcher):
        wiring.connect(m, fetcher.program, core.program)
        m.d.comb += [
            fetcher.start.eq(supervisor.list_start),
            fetcher.address.eq(supervisor.list_address),
            fetcher.limit.eq(supervisor.list_limit),
            fetcher.stop.eq(supervisor.stop),
            core.list_start.eq(supervisor.list_start),
            core.list_fault.eq(fetcher.list_fault),
            supervisor.core_busy.eq(core.busy),
            supervisor.error.eq(core.error),
            supervisor.failed.eq(core.failed),
            supervisor.failed_address.eq(core.failed_address),
            supervisor.progress.eq(core.progress),
            supervisor.list_fault.eq(fetcher.list_fault),
            supervisor.fault_address.eq(fetcher.failed_address),
            supervisor.fetch_idle.eq(fetcher.idle),
            master.drain.eq(supervisor.drain),
            supervisor.bus_idle.eq(master.idle),
            supervisor.moved.eq(master.moved),
        ]
