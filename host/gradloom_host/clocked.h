// A Verilated machine with a clock and, if asked for, its waves.

#pragma once

#include <cstdint>

#include "Vsimulated.h"
#include "verilated.h"
#if VM_TRACE_FST
#include "verilated_fst_c.h"
using Waves = VerilatedFstC;
#elif VM_TRACE_VCD
#include "verilated_vcd_c.h"
using Waves = VerilatedVcdC;
#endif

class Clocked {
public:
    Clocked() : top{&context} {}
    ~Clocked() {
        top.final();
        // The scopes of `top` leave whichever context is the thread's: that of the machine made
        // last, which may be gone.
        Verilated::threadContextp(&context);
#if VM_TRACE
        waves.close();
#endif
    }

    // Returns whether the file could be opened. A cycle takes 10 units: it ends with a rising edge.
    bool record(const char* name) {
#if VM_TRACE
        context.traceEverOn(true);
        top.trace(&waves, 99);
        waves.open(name);
        return waves.isOpen();
#else
        return name == nullptr;
#endif
    }

    // Both evaluations see the inputs already set: outputs that depend on them are settled
    // before the edge, registers and what follows from them after it.
    void settle() {
        top.clk = 0;
        top.eval();
        dump(10 * cycles + 5);
    }
    void edge() {
        top.clk = 1;
        top.eval();
        ++cycles;
        dump(10 * cycles);
    }

    uint64_t cycles = 0;
    VerilatedContext context;  // one each, because instances share nothing
    Vsimulated top;

private:
#if VM_TRACE
    void dump(uint64_t time) { waves.dump(time); }
    Waves waves;
#else
    void dump(uint64_t) {}
#endif
};

#define EXPORT extern "C" __attribute__((visibility("default")))
