"""The cocotb side of the tests: modules that run inside a simulator."""
