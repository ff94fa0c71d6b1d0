"""Cycles, accesses and energy of training whole networks on the array."""
