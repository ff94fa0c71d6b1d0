// Clocks a Verilated machine behind a C interface, so that no cycle is spent in Python.

#include "clocked.h"

using Machine = Clocked;

// Returns null when the waves cannot be written.
EXPORT Machine* gradloom_create(const char* waves) {
    Machine* machine = new Machine;
    if (machine->record(waves)) return machine;
    delete machine;
    return nullptr;
}

EXPORT void gradloom_destroy(Machine* machine) { delete machine; }

EXPORT uint64_t gradloom_cycles(const Machine* machine) { return machine->cycles; }

EXPORT void gradloom_reset(Machine* machine) {
    Vsimulated& top = machine->top;
    top.request_valid = 0;
    top.response_ready = 0;
    top.rst = 1;
    // Two edges: one to the register in front of the machine's reset, one through it.
    for (int edge = 0; edge < 2; ++edge) {
        machine->settle();
        machine->edge();
        top.rst = 0;
    }
}

// Returns the words accepted: fewer than `count` when `patience` cycles passed without one.
EXPORT uint64_t gradloom_write(Machine* machine, uint32_t address, const uint32_t* words,
                               uint64_t count, uint64_t patience) {
    Vsimulated& top = machine->top;
    uint64_t accepted = 0;
    uint64_t stalled = 0;
    top.request_valid = 1;
    top.request_write = 1;
    while (accepted < count && stalled < patience) {
        top.request_address = address + static_cast<uint32_t>(accepted);
        top.request_data = words[accepted];
        machine->settle();
        const bool transfers = top.request_ready;
        machine->edge();
        accepted += transfers;
        stalled = transfers ? 0 : stalled + 1;
    }
    top.request_valid = 0;
    return accepted;
}

// Returns the words answered, or `count` + 1 when a response came that no read had asked for.
EXPORT uint64_t gradloom_read(Machine* machine, uint32_t address, uint32_t* words,
                              uint64_t count, uint64_t patience) {
    Vsimulated& top = machine->top;
    uint64_t accepted = 0;
    uint64_t answered = 0;
    uint64_t stalled = 0;
    top.request_write = 0;
    top.response_ready = 1;
    while (answered < count && stalled < patience) {
        top.request_valid = accepted < count;
        top.request_address = address + static_cast<uint32_t>(accepted);
        machine->settle();
        const bool transfers = top.request_valid && top.request_ready;
        const bool answers = top.response_valid;
        if (answers) {
            if (answered == accepted) {
                answered = count + 1;
                break;
            }
            words[answered] = top.response;
        }
        machine->edge();
        accepted += transfers;
        answered += answers;
        stalled = transfers || answers ? 0 : stalled + 1;
    }
    top.request_valid = 0;
    top.response_ready = 0;
    return answered;
}

// Returns the cycles spent: at least one, then as long as the machine is busy, up to `limit`.
EXPORT uint64_t gradloom_run(Machine* machine, uint64_t limit) {
    uint64_t spent = 0;
    do {
        machine->settle();
        machine->edge();
        ++spent;
    } while (machine->top.busy && spent < limit);
    return spent;
}

EXPORT bool gradloom_busy(const Machine* machine) { return machine->top.busy; }
