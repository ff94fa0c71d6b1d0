// A memory behind an AXI4 bus: answers in order, some cycles late, and looks after the rules.

#pragma once

#include <cstdint>
#include <cstring>
#include <deque>

#include "Vsimulated.h"

constexpr uint64_t BEAT = sizeof(Vsimulated::m_axi_rdata);  // bytes
constexpr uint64_t PAGE = 4096;
constexpr uint8_t INCR = 1;

enum Response : uint8_t { OKAY = 0, SLVERR = 2, DECERR = 3 };

struct Options {
    uint8_t* memory;
    uint64_t bytes;
    uint64_t latency;      // cycles from an address to its first beat, from last data to answer
    uint64_t outstanding;  // bursts of a kind that may wait for their end
    uint32_t stall;        // probability of a pause, in 2^-32
    uint64_t seed;
};

// xorshift64: the same pauses for the same seed, everywhere.
class Pauses {
public:
    Pauses(uint32_t probability, uint64_t seed)
        : probability{probability}, state{(seed + 1) * 0x9E3779B97F4A7C15u | 1} {}
    bool operator()() {
        if (probability == 0) return false;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return static_cast<uint32_t>(state >> 32) < probability;
    }

private:
    uint32_t probability;
    uint64_t state;
};

// The first broken rule, and when.
struct Violation {
    const char* rule = nullptr;
    uint64_t cycle = 0;

    void operator()(const char* broken, uint64_t now) {
        if (rule == nullptr) {
            rule = broken;
            cycle = now;
        }
    }
};

// What a channel offers until it is taken: it may neither be withdrawn nor change.
template <typename Payload>
class Offer {
public:
    bool withdrawn(bool valid) const { return stands && !valid; }
    bool changed(bool valid, const Payload& payload) const {
        return stands && valid && std::memcmp(&payload, &offered, sizeof(Payload)) != 0;
    }
    void see(bool valid, bool ready, const Payload& payload) {
        stands = valid && !ready;
        offered = payload;
    }

private:
    bool stands = false;
    Payload offered = {};
};

// Payloads of the channels: 64-bit members only, because padding would not compare.
struct Address {
    uint64_t address, length, size, burst;
};
struct Data {
    uint8_t data[BEAT];
    uint64_t strobe, last;
};

class AxiMemory {
public:
    AxiMemory(const Options& options, Vsimulated& top, Violation& broken)
        : options{options}, top{top}, broken{broken}, pauses{options.stall, options.seed} {}

    void fault(uint64_t first, uint64_t end) {
        fault_first = first;
        fault_end = end;
    }

    // Before the machine settles: what the memory offers and takes in this cycle.
    void drive(uint64_t now) {
        top.m_axi_arready = reads.size() < options.outstanding && !pauses();
        top.m_axi_awready = writes.size() + answers.size() < options.outstanding && !pauses();
        top.m_axi_wready = !writes.empty() && !pauses();  // data follow their address
        if (!reading && !reads.empty() && reads.front().ready <= now && !pauses()) offer_beat();
        top.m_axi_rvalid = reading;
        if (!answering && !answers.empty() && answers.front().ready <= now && !pauses()) {
            answering = true;
            top.m_axi_bresp = answers.front().response;
            top.m_axi_bid = answers.front().id;
        }
        top.m_axi_bvalid = answering;
    }

    // After it has settled: what moves at the coming edge.
    void observe(uint64_t now) {
        take_data(now);
        take_read(now);
        take_write(now);
        if (reading && top.m_axi_rready) {
            reading = false;
            Burst& burst = reads.front();
            burst.address += BEAT;
            if (--burst.beats == 0) reads.pop_front();
        }
        if (answering && top.m_axi_bready) {
            answering = false;
            answers.pop_front();
        }
    }

    void reset() {
        reads.clear();
        writes.clear();
        answers.clear();
        reading = answering = false;
        offered_read = offered_write = {};
        offered_data = {};
        top.m_axi_arready = top.m_axi_awready = top.m_axi_wready = 0;
        top.m_axi_rvalid = top.m_axi_bvalid = 0;
    }

private:
    struct Burst {
        uint64_t address;
        uint64_t beats;
        uint64_t ready;  // cycle from which it may be answered
        uint8_t id;
        Response response;
    };

    Response response(uint64_t address) const {
        if (options.bytes < BEAT || address > options.bytes - BEAT) return DECERR;
        return address + BEAT > fault_first && address < fault_end ? SLVERR : OKAY;
    }

    void offer_beat() {
        const Burst& burst = reads.front();
        const Response result = response(burst.address);
        reading = true;
        top.m_axi_rresp = result;
        if (result == OKAY)
            std::memcpy(&top.m_axi_rdata, options.memory + burst.address, BEAT);
        else
            std::memset(&top.m_axi_rdata, 0xAA, BEAT);  // not to be mistaken for blank memory
        top.m_axi_rlast = burst.beats == 1;
        top.m_axi_rid = burst.id;
    }

    void check(const Address& burst, uint64_t now) {
        const uint64_t bytes = (burst.length + 1) * BEAT;
        if (burst.burst != INCR) broken("a burst is not of type INCR", now);
        if ((1u << burst.size) != BEAT) broken("the beats of a burst are not those of the bus", now);
        if (burst.address % BEAT) broken("a burst does not begin at a multiple of a beat", now);
        if (burst.address / PAGE != (burst.address + bytes - 1) / PAGE)
            broken("a burst crosses a boundary of 4 KiB", now);
    }

    void take_read(uint64_t now) {
        const Address burst = {top.m_axi_araddr, top.m_axi_arlen, top.m_axi_arsize,
                               top.m_axi_arburst};
        const bool valid = top.m_axi_arvalid;
        if (offered_read.withdrawn(valid)) broken("ARVALID fell before ARREADY", now);
        if (offered_read.changed(valid, burst)) broken("AR changed before ARREADY", now);
        offered_read.see(valid, top.m_axi_arready, burst);
        if (!valid || !top.m_axi_arready) return;
        check(burst, now);
        reads.push_back({burst.address, burst.length + 1, now + options.latency, top.m_axi_arid,
                         OKAY});
    }

    void take_write(uint64_t now) {
        const Address burst = {top.m_axi_awaddr, top.m_axi_awlen, top.m_axi_awsize,
                               top.m_axi_awburst};
        const bool valid = top.m_axi_awvalid;
        if (offered_write.withdrawn(valid)) broken("AWVALID fell before AWREADY", now);
        if (offered_write.changed(valid, burst)) broken("AW changed before AWREADY", now);
        offered_write.see(valid, top.m_axi_awready, burst);
        if (!valid || !top.m_axi_awready) return;
        check(burst, now);
        writes.push_back({burst.address, burst.length + 1, 0, top.m_axi_awid, OKAY});
    }

    void take_data(uint64_t now) {
        Data beat = {};
        std::memcpy(beat.data, &top.m_axi_wdata, BEAT);
        beat.strobe = top.m_axi_wstrb;
        beat.last = top.m_axi_wlast;
        const bool valid = top.m_axi_wvalid;
        if (offered_data.withdrawn(valid)) broken("WVALID fell before WREADY", now);
        if (offered_data.changed(valid, beat)) broken("W changed before WREADY", now);
        offered_data.see(valid, top.m_axi_wready, beat);
        if (!valid || !top.m_axi_wready) return;

        Burst& burst = writes.front();
        if ((burst.beats == 1) != (beat.last != 0))
            broken("WLAST is not at the last beat of its burst", now);
        const Response result = response(burst.address);
        if (result == OKAY) {
            for (uint64_t byte = 0; byte < BEAT; ++byte)
                if (beat.strobe >> byte & 1) options.memory[burst.address + byte] = beat.data[byte];
        } else if (result > burst.response) {
            burst.response = result;
        }
        burst.address += BEAT;
        if (--burst.beats == 0) {
            burst.ready = now + options.latency;
            answers.push_back(burst);
            writes.pop_front();
        }
    }

    Options options;
    Vsimulated& top;
    Violation& broken;
    Pauses pauses;
    uint64_t fault_first = 0;
    uint64_t fault_end = 0;
    std::deque<Burst> reads;
    std::deque<Burst> writes;
    std::deque<Burst> answers;
    bool reading = false;
    bool answering = false;
    Offer<Address> offered_read;
    Offer<Address> offered_write;
    Offer<Data> offered_data;
};
