"""Area of generated hardware, measured with Yosys."""
