// Clocks a Verilated machine behind its AXI ports, with a memory and a host, behind a C interface.

#include "axi_memory.h"
#include "clocked.h"

namespace {

struct Answer {
    uint64_t response, data;
};

class Machine : public Clocked {
public:
    explicit Machine(const Options& options)
        : memory{options, top, broken}, pauses{options.stall, ~options.seed} {}

    void reset() {
        memory.reset();
        top.s_axil_awvalid = top.s_axil_wvalid = top.s_axil_arvalid = 0;
        top.s_axil_bready = top.s_axil_rready = 0;
        offered_write = offered_read = {};
        // Three edges: one to the register in front of the machine's reset, one through it, and
        // one out of it.
        for (int count = 0; count < 3; ++count) {
            top.rst = count < 2;
            settle();
            if (count == 2 && (top.m_axi_arvalid || top.m_axi_awvalid || top.m_axi_wvalid ||
                               top.s_axil_bvalid || top.s_axil_rvalid))
                broken("a VALID is high in reset", cycles);
            edge();
        }
    }

    // A cycle is `offer`, a look at what transfers, and `edge`.
    void offer() {
        memory.drive(cycles);
        settle();
        memory.observe(cycles);
        const Answer write = {top.s_axil_bresp, 0};
        const Answer read = {top.s_axil_rresp, top.s_axil_rdata};
        check(offered_write, top.s_axil_bvalid, top.s_axil_bready, write,
              "BVALID of the AXI4-Lite port fell before BREADY",
              "B of the AXI4-Lite port changed before BREADY");
        check(offered_read, top.s_axil_rvalid, top.s_axil_rready, read,
              "RVALID of the AXI4-Lite port fell before RREADY",
              "R of the AXI4-Lite port changed before RREADY");
    }

    uint64_t run(uint64_t limit) {
        uint64_t spent = 0;
        while (!top.irq && spent < limit && broken.rule == nullptr) {
            offer();
            edge();
            ++spent;
        }
        return spent;
    }

    // Address and data are offered from cycles of their own when there are pauses.
    bool write(uint32_t address, uint32_t data, uint64_t patience, uint8_t* response) {
        bool address_waits = true;
        bool data_wait = true;
        top.s_axil_awaddr = address;
        top.s_axil_wdata = data;
        top.s_axil_wstrb = 0xF;
        for (uint64_t spent = 0; spent < patience && broken.rule == nullptr; ++spent) {
            top.s_axil_awvalid = address_waits && (top.s_axil_awvalid || !pauses());
            top.s_axil_wvalid = data_wait && (top.s_axil_wvalid || !pauses());
            top.s_axil_bready = !pauses();
            offer();
            address_waits &= !(top.s_axil_awvalid && top.s_axil_awready);
            data_wait &= !(top.s_axil_wvalid && top.s_axil_wready);
            const bool answered = top.s_axil_bvalid && top.s_axil_bready;
            *response = top.s_axil_bresp;
            if (answered && (address_waits || data_wait))
                broken("BVALID of the AXI4-Lite port came before address and data", cycles);
            edge();
            if (answered) break;
            if (spent + 1 == patience) return false;
        }
        top.s_axil_awvalid = top.s_axil_wvalid = top.s_axil_bready = 0;
        return true;
    }

    bool read(uint32_t address, uint32_t* data, uint64_t patience, uint8_t* response) {
        bool address_waits = true;
        top.s_axil_araddr = address;
        for (uint64_t spent = 0; spent < patience && broken.rule == nullptr; ++spent) {
            top.s_axil_arvalid = address_waits && (top.s_axil_arvalid || !pauses());
            top.s_axil_rready = !pauses();
            offer();
            address_waits &= !(top.s_axil_arvalid && top.s_axil_arready);
            const bool answered = top.s_axil_rvalid && top.s_axil_rready;
            *data = top.s_axil_rdata;
            *response = top.s_axil_rresp;
            if (answered && address_waits)
                broken("RVALID of the AXI4-Lite port came before its address", cycles);
            edge();
            if (answered) break;
            if (spent + 1 == patience) return false;
        }
        top.s_axil_arvalid = top.s_axil_rready = 0;
        return true;
    }

    Violation broken;
    AxiMemory memory;

private:
    void check(Offer<Answer>& offer, bool valid, bool ready, const Answer& answer,
               const char* fell, const char* changed) {
        if (offer.withdrawn(valid)) broken(fell, cycles);
        if (offer.changed(valid, answer)) broken(changed, cycles);
        offer.see(valid, ready, answer);
    }

    Pauses pauses;
    Offer<Answer> offered_write;
    Offer<Answer> offered_read;
};

}  // namespace

// Returns null when the waves cannot be written.
EXPORT Machine* gradloom_create(const char* waves, uint8_t* memory, uint64_t bytes,
                                uint64_t latency, uint64_t outstanding, uint32_t stall,
                                uint64_t seed) {
    Machine* machine = new Machine({memory, bytes, latency, outstanding, stall, seed});
    if (machine->record(waves)) return machine;
    delete machine;
    return nullptr;
}

EXPORT void gradloom_destroy(Machine* machine) { delete machine; }

EXPORT uint64_t gradloom_cycles(const Machine* machine) { return machine->cycles; }

EXPORT void gradloom_reset(Machine* machine) { machine->reset(); }

EXPORT void gradloom_fault(Machine* machine, uint64_t first, uint64_t end) {
    machine->memory.fault(first, end);
}

// Returns the first rule of the buses that the machine broke, or null, and the cycle of it.
EXPORT const char* gradloom_violation(const Machine* machine, uint64_t* cycle) {
    *cycle = machine->broken.cycle;
    return machine->broken.rule;
}

EXPORT bool gradloom_interrupt(const Machine* machine) { return machine->top.irq; }

// Returns whether the port answered, or a rule was broken, within `patience` cycles.
EXPORT bool gradloom_write(Machine* machine, uint32_t address, uint32_t data, uint64_t patience,
                           uint8_t* response) {
    return machine->write(address, data, patience, response);
}

EXPORT bool gradloom_read(Machine* machine, uint32_t address, uint32_t* data, uint64_t patience,
                          uint8_t* response) {
    return machine->read(address, data, patience, response);
}

// Returns the cycles spent: until the interrupt or a broken rule, up to `limit`.
EXPORT uint64_t gradloom_run(Machine* machine, uint64_t limit) { return machine->run(limit); }
