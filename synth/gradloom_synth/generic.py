"""A library of no process: cells weighed by their transistors in static CMOS."""

__all__ = ["GENERIC_CELLS", "GENERIC_NAME", "generic_liberty"]

GENERIC_NAME = "gradloom_generic"

GENERIC_CELLS = {
    "INV": (2, "!A"),
    "BUF": (4, "A"),
    "NAND2": (4, "!(A&B)"),
    "NOR2": (4, "!(A|B)"),
    "NAND3": (6, "!(A&B&C)"),
    "NOR3": (6, "!(A|B|C)"),
    "AND2": (6, "A&B"),
    "OR2": (6, "A|B"),
    "AOI21": (6, "!((A&B)|C)"),
    "OAI21": (6, "!((A|B)&C)"),
    "AOI22": (8, "!((A&B)|(C&D))"),
    "OAI22": (8, "!((A|B)&(C|D))"),
    "XOR2": (10, "A^B"),
    "XNOR2": (10, "!(A^B)"),
    "MUX2": (10, "(A&!S)|(B&S)"),
    "DFF": (20, None),
    "DFFR": (24, "clear"),
    "DFFS": (24, "preset"),
}
"""Transistors and function of each cell; of a flip-flop, its asynchronous input or None.

A NAND2 has four transistors, so a quarter of the count is the weight in gate equivalents.
"""


def _pin(name: str, attributes: str) -> str:
    return f"pin({name}) {{ {attributes} }}"


def _cell(name: str, transistors: int, function: str | None) -> str:
    asynchronous = function in ("clear", "preset")
    if function is None or asynchronous:
        control = f' {function} : "!R";' if asynchronous else ""
        inputs = ["D", *(["R"] if asynchronous else [])]
        state = f'ff(IQ,IQN) {{ clocked_on : "CK"; next_state : "D";{control} }}'
        pins = [_pin("CK", "direction : input; clock : true;")]
        function = "IQ"
    else:
        inputs = [pin for pin in "ABCDS" if pin in function]
        state, pins = "", []
    pins += [_pin(pin, "direction : input;") for pin in inputs]
    pins += [_pin("Y", f'direction : output; function : "{function}";')]
    return "\n".join([f"cell({name}) {{ area : {transistors / 4};", state, *pins, "}"])


def generic_liberty() -> str:
    """Return the library as Liberty text, areas in gate equivalents."""
    cells = [_cell(name, *cell) for name, cell in GENERIC_CELLS.items()]
    return "\n".join([f"library({GENERIC_NAME}) {{", *cells, "}", ""])
