"""A small AXI design: it copies bursts, and breaks a rule of the bus when told to."""

__all__ = [
    "BEATS", "BURSTS", "DATA", "FAULT", "FAULTS", "FROM", "RESPONSES", "START", "TO", "copy_engine",
]

FROM, TO, BEATS, BURSTS, START, RESPONSES, FAULT, DATA = (4 * index for index in range(8))
"""Byte addresses of registers.

`BURSTS` reads of `BEATS` beats each, from `FROM` on, are asked for without waiting; then as many
writes go to `TO`, one after the other. 256 beats in all. `RESPONSES` reads as the OR of those to
reads (bits 1:0) and to writes (3:2). `FAULT` is an
index of `FAULTS`, kept in reset; `DATA` keeps what is written. Other addresses are refused.
"""

FAULTS = (
    "none", "ar-falls", "ar-changes", "aw-falls", "aw-changes", "w-falls", "w-changes", "type",
    "size", "last-early", "last-late", "b-falls", "b-changes", "r-falls", "r-changes", "reset",
    "answer-early",
)

TEXT = """\
module gradloom_axi (
    input clk, input rst, output irq,
    output m_axi_awid, output [{a}:0] m_axi_awaddr, output [7:0] m_axi_awlen,
    output [2:0] m_axi_awsize, output [1:0] m_axi_awburst, output m_axi_awlock,
    output [3:0] m_axi_awcache, output [2:0] m_axi_awprot, output [3:0] m_axi_awqos,
    output m_axi_awvalid, input m_axi_awready,
    output [{d}:0] m_axi_wdata, output [{s}:0] m_axi_wstrb, output m_axi_wlast,
    output m_axi_wvalid, input m_axi_wready,
    input m_axi_bid, input [1:0] m_axi_bresp, input m_axi_bvalid, output m_axi_bready,
    output m_axi_arid, output [{a}:0] m_axi_araddr, output [7:0] m_axi_arlen,
    output [2:0] m_axi_arsize, output [1:0] m_axi_arburst, output m_axi_arlock,
    output [3:0] m_axi_arcache, output [2:0] m_axi_arprot, output [3:0] m_axi_arqos,
    output m_axi_arvalid, input m_axi_arready,
    input m_axi_rid, input [{d}:0] m_axi_rdata, input [1:0] m_axi_rresp, input m_axi_rlast,
    input m_axi_rvalid, output m_axi_rready,
    input [25:0] s_axil_awaddr, input [2:0] s_axil_awprot, input s_axil_awvalid,
    output s_axil_awready, input [31:0] s_axil_wdata, input [3:0] s_axil_wstrb,
    input s_axil_wvalid, output s_axil_wready, output [1:0] s_axil_bresp, output s_axil_bvalid,
    input s_axil_bready,
    input [25:0] s_axil_araddr, input [2:0] s_axil_arprot, input s_axil_arvalid,
    output s_axil_arready, output [31:0] s_axil_rdata, output [1:0] s_axil_rresp,
    output s_axil_rvalid, input s_axil_rready
);
    /* verilator lint_off UNUSEDSIGNAL */
    localparam integer BYTES = ({d} + 1) / 8;
    reg [31:0] from, to, beats, bursts, data;
    reg [31:0] fault = 0;
    wire [2:0] size = fault == 8 ? 3'd0 : 3'd{size};
    wire [1:0] kind = fault == 7 ? 2'd0 : 2'd1;
    reg [3:0] responses;
    reg running, done;
    assign irq = done;

    // Waited: the channel was offered in the last cycle and not taken.
    reg ar_waited, aw_waited, w_waited, b_waited, r_waited;
    always @(posedge clk) begin
        ar_waited <= m_axi_arvalid & ~m_axi_arready;
        aw_waited <= m_axi_awvalid & ~m_axi_awready;
        w_waited <= m_axi_wvalid & ~m_axi_wready;
        b_waited <= s_axil_bvalid & ~s_axil_bready;
        r_waited <= s_axil_rvalid & ~s_axil_rready;
    end

    // Reads: addresses run ahead, beats fill the buffer.
    reg [{d}:0] buffer [0:255];
    reg [31:0] asked, filled, written, sent, finished;
    reg aw_valid, w_valid;
    wire [31:0] total = beats * bursts;
    assign m_axi_arid = 1'b1;
    assign m_axi_arvalid = (running & asked != bursts & ~(fault == 1 & ar_waited))
        | (fault == 15 & rst);
    assign m_axi_araddr = {{{{({a} - 31){{1'b0}}}}, from + asked * beats * BYTES
        + (fault == 2 & ar_waited ? BYTES : 0)}};
    assign m_axi_arlen = beats[7:0] - 8'd1;
    assign m_axi_arsize = size;
    assign m_axi_arburst = kind;
    assign m_axi_rready = 1'b1;

    // Writes: an address, its data, its answer, then the next.
    assign m_axi_awid = 1'b1;
    assign m_axi_awvalid = aw_valid & ~(fault == 3 & aw_waited);
    assign m_axi_awaddr = {{{{({a} - 31){{1'b0}}}}, to + written * beats * BYTES
        + (fault == 4 & aw_waited ? BYTES : 0)}};
    assign m_axi_awlen = beats[7:0] - 8'd1;
    assign m_axi_awsize = size;
    assign m_axi_awburst = kind;
    assign m_axi_wvalid = w_valid & ~(fault == 5 & w_waited);
    assign m_axi_wdata = buffer[sent[7:0]] ^ {{{d}'b0, fault == 6 & w_waited}};
    assign m_axi_wstrb = {{{strobes}{{1'b1}}}};
    assign m_axi_wlast = sent + 1 == (written + 1) * beats
        + (fault == 10 ? 32'd1 : fault == 9 ? -32'd1 : 32'd0);
    assign m_axi_bready = 1'b1;
    assign {{m_axi_arlock, m_axi_arcache, m_axi_arprot, m_axi_arqos}} = 0;
    assign {{m_axi_awlock, m_axi_awcache, m_axi_awprot, m_axi_awqos}} = 0;

    // The AXI4-Lite port.
    reg aw_held, w_held, b_valid, r_valid;
    reg [25:0] address;
    reg [31:0] value, answer;
    reg [1:0] b_answer, r_answer;
    assign s_axil_awready = ~aw_held & ~b_valid;
    assign s_axil_wready = ~w_held & ~b_valid;
    assign s_axil_bvalid = (b_valid & ~(fault == 11 & b_waited)) | (fault == 16 & aw_held);
    assign s_axil_bresp = b_answer ^ {{fault == 12 & b_waited, 1'b0}};
    assign s_axil_arready = ~r_valid;
    assign s_axil_rvalid = r_valid & ~(fault == 13 & r_waited);
    assign s_axil_rdata = answer ^ {{31'b0, fault == 14 & r_waited}};
    assign s_axil_rresp = r_answer;

    always @(posedge clk) begin
        if (s_axil_awvalid & s_axil_awready) {{aw_held, address}} <= {{1'b1, s_axil_awaddr}};
        if (s_axil_wvalid & s_axil_wready) {{w_held, value}} <= {{1'b1, s_axil_wdata}};
        if (aw_held & w_held) begin
            {{aw_held, w_held, b_valid}} <= 3'b001;
            b_answer <= address > {data_address} ? 2'd2 : 2'd0;
            case (address)
                {from_address}: from <= value;
                {to_address}: to <= value;
                {beats_address}: beats <= value;
                {bursts_address}: bursts <= value;
                {start_address}: begin
                    {{running, done, responses}} <= {{2'b10, 4'b0}};
                    {{asked, filled, written, sent, finished}} <= 0;
                end
                {fault_address}: fault <= value;
                {data_address}: data <= value;
                default:;
            endcase
        end
        if (s_axil_bvalid & s_axil_bready) b_valid <= 0;
        if (s_axil_arvalid & s_axil_arready) begin
            r_valid <= 1;
            r_answer <= s_axil_araddr > {data_address} ? 2'd2 : 2'd0;
            answer <= s_axil_araddr == {responses_address} ? {{28'b0, responses}} : data;
        end else if (s_axil_rvalid & s_axil_rready) r_valid <= 0;

        if (m_axi_arvalid & m_axi_arready) asked <= asked + 1;
        if (m_axi_rvalid) begin
            buffer[filled[7:0]] <= m_axi_rdata;
            filled <= filled + 1;
            responses[1:0] <= responses[1:0] | m_axi_rresp;
        end
        if (running & filled == total & finished == written & ~aw_valid & ~w_valid) begin
            if (written == bursts) {{running, done}} <= 2'b01;
            else {{aw_valid, w_valid}} <= 2'b11;
        end
        if (m_axi_awvalid & m_axi_awready) aw_valid <= 0;
        if (m_axi_wvalid & m_axi_wready) begin
            sent <= sent + 1;
            if (sent + 1 == (written + 1) * beats) begin
                w_valid <= 0;
                written <= written + 1;
            end
        end
        if (m_axi_bvalid) begin
            finished <= finished + 1;
            responses[3:2] <= responses[3:2] | m_axi_bresp;
        end
        if (rst) begin
            {{running, done, aw_valid, w_valid, aw_held, w_held, b_valid, r_valid}} <= 0;
            {{asked, filled, written, sent, finished}} <= 0;
        end
    end
endmodule
"""


def copy_engine(*, data_bits: int = 64, address_bits: int = 40) -> str:
    """Return its Verilog, with the ports of `gradloom.shell.Shell`."""
    registers = {"from": FROM, "to": TO, "beats": BEATS, "bursts": BURSTS, "start": START,
                 "responses": RESPONSES, "fault": FAULT, "data": DATA}
    return TEXT.format(
        a=address_bits - 1, d=data_bits - 1, s=data_bits // 8 - 1, strobes=data_bits // 8,
        size=(data_bits // 8).bit_length() - 1,
        **{f"{name}_address": f"26'd{value}" for name, value in registers.items()})
