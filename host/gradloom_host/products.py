"""The lane multiplier as products, which a processor has an instruction for.

Written out as rows and adders it takes a fifth of a simulated cycle. Nothing is replaced but the
text that tb/test_products.py proves equal for every input: any other, an edited one too, is
simulated as it stands.
"""

import hashlib
import re

__all__ = ["PROVED", "as_products"]

PROVED = "ae3a4583d0cf04e4afb54cfb49b1795cef9e4b0cd9b5f72105f1602a21e4f0c8"
"""SHA-256 of a lane multiplier for 8-bit factors, from its ports to its end."""

MULTIPLIER = re.compile(
    r"(?<=^module )(\S+\.multiplier )(\([^;]*\);\n.*?^endmodule\n)", re.MULTILINE | re.DOTALL)

PRODUCTS = """\
(
  input signed [7:0] word, input signed [7:0] factor,
  input signed [7:0] steps__0, input signed [7:0] steps__1,
  input signed [7:0] steps__2, input signed [7:0] steps__3,
  input two, input four, output [15:0] product
);
  wire signed [15:0] of_one = word * factor;
  wire signed [15:0] of_two = $signed(word[3:0]) * steps__1 + $signed(word[7:4]) * steps__0;
  wire signed [15:0] of_four =
    $signed(word[1:0]) * steps__3 + $signed(word[3:2]) * steps__1
    + ($signed(word[5:4]) * steps__2 + $signed(word[7:6]) * steps__0);
  // Less the carry that the cell adds.
  assign product = (four ? of_four : two ? of_two : of_one) - {15'd0, word[1]};
endmodule
"""


def as_products(verilog: str) -> str:
    """Return the text with its lane multipliers as products."""
    return MULTIPLIER.sub(_if_proved, verilog)


def _if_proved(multiplier: re.Match) -> str:
    name, body = multiplier.groups()
    return name + (PRODUCTS if hashlib.sha256(body.encode()).hexdigest() == PROVED else body)
