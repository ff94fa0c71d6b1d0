"""The host's side: a device that multiplies and trains, networks on it, and the command line."""

from .device import Device, DeviceError, Mismatch

__all__ = ["Device", "DeviceError", "Mismatch"]
