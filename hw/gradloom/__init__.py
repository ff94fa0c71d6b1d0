"""Generator of a synthesizable accelerator that trains neural networks."""

__version__ = "0.1.0"
