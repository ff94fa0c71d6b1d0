"""The layer tables that come with GradLoom, read without its own reader."""

import csv
from importlib import resources

from gradloom_model.layers import Layer, Network

__all__ = ["network"]


def network(name):
    """Return a shipped network; its first layer needs no input gradient."""
    text = (resources.files("gradloom_model") / "networks" / f"{name}.csv").read_text("utf-8")
    layers = []
    for row in csv.DictReader(text.splitlines()):
        number = {key: int(value) for key, value in row.items() if key not in ("name", "type")}
        pad = number["pad_h"], number["pad_w"]
        layers.append(Layer(
            name=row["name"], kind="conv" if row["type"] == "conv" else "linear",
            outputs=number["N_out"], inputs=number["C_in"],
            kernel=(number["K_h"], number["K_w"]), stride=(number["stride_h"], number["stride_w"]),
            padding=(*pad, *pad), size=(number["H_in"], number["W_in"]), groups=number["groups"],
            input_gradient=bool(layers)))
    return Network(name, layers)
