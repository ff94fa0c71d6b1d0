"""Where the random bits of stochastic rounding come from.

The golden model draws 16 bits from LFSRs, in the order of the machine's tiles. The emulation rounds
by the same rule but takes its bits from a source that is handed to it, so that a test can hand it
the golden bits. A draw is *centred*, an int16 of r - 32768 for golden's r: zero, no draw at all,
then rounds to nearest.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from gradloom_golden.fixed import HALF
from gradloom_golden.lfsr import Bank

__all__ = ["Draws", "Generated", "Replayed", "centred"]

LANES = 1 << 16
"""Registers of `Generated`; a step of all of them stays in a processor's cache."""

PER_WORD = 4
"""Draws of 16 bits in a word of 64."""

SMALL = LANES // 8
"""Words of a request that does not get a step of its own."""


class Draws(Protocol):
    """A source of 16-bit draws."""

    def draw(self, bank: Bank, shape: Sequence[int]) -> torch.Tensor:
        """Return centred draws, int16 of that shape, for the user `bank` names."""
        ...


def centred(draws: torch.Tensor) -> torch.Tensor:
    """Return golden's draws of 0 to 65535 as centred ones."""
    return (draws - HALF).to(torch.int16)


class Generated:
    """Draws of many xorshift generators side by side (Marsaglia, 2003: 13, 7, 17).

    Each lane is a register of 64 bits with a state of its own, drawn by PyTorch's generator; a
    step gives four draws. That costs a quarter of PyTorch's own random integers on a CPU. Small
    requests are served from one step of all lanes, until that is used up.

    Parameters
    ----------
    seed : int
    device : str or device
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu"):
        generator = torch.Generator().manual_seed(seed)
        state = torch.randint(1, (1 << 63) - 1, (LANES,), generator=generator)
        self._state = state.to(device)
        self._shifted = torch.empty_like(self._state)
        self._ready = torch.empty_like(self._state)
        self._used = LANES

    def draw(self, bank: Bank, shape: Sequence[int]) -> torch.Tensor:
        """Return centred draws, to be read only; all users share the lanes."""
        count = torch.Size(shape).numel()
        words = -(-count // PER_WORD)
        found = self._few(words) if words <= SMALL else self._many(words)
        return found.view(torch.int16)[:count].view(*shape)

    def _few(self, words: int) -> torch.Tensor:
        if self._used + words > LANES:
            # Not into the old one, of which somebody may still hold a part.
            self._ready = self._advance(LANES).clone()
            self._used = 0
        self._used += words
        return self._ready[self._used - words:self._used]

    def _many(self, words: int) -> torch.Tensor:
        found = torch.empty(words, dtype=torch.int64, device=self._state.device)
        for first in range(0, words, LANES):
            part = found[first:first + LANES]
            part.copy_(self._advance(len(part)))
        return found

    def _advance(self, count: int) -> torch.Tensor:
        state, shifted = self._state[:count], self._shifted[:count]
        torch.bitwise_left_shift(state, 13, out=shifted)
        state.bitwise_xor_(shifted)
        torch.bitwise_right_shift(state, 7, out=shifted)
        state.bitwise_xor_(shifted.bitwise_and_((1 << 57) - 1))
        torch.bitwise_left_shift(state, 17, out=shifted)
        return state.bitwise_xor_(shifted)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on from here."""
        return {"state": self._state.cpu().clone(), "ready": self._ready.cpu().clone(),
                "used": self._used}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on where `saved` was taken."""
        self._state.copy_(saved["state"])
        self._ready.copy_(saved["ready"])
        self._used = saved["used"]


class Replayed:
    """Draws that were made before, handed out in the order in which they are asked for.

    Parameters
    ----------
    draws : dict of Bank to sequence of tensor
        Values of 0 to 65535, as golden's; each answers one call.
    """

    def __init__(self, draws: dict[Bank, Sequence[torch.Tensor]]):
        self._left = {bank: list(some) for bank, some in draws.items()}

    def draw(self, bank: Bank, shape: Sequence[int]) -> torch.Tensor:
        """Return the next draws of a user.

        Raises
        ------
        ValueError
            If there are none left, or they have another shape.
        """
        if not self._left.get(bank):
            raise ValueError(f"nothing is left to replay for {bank.name}: record more draws")
        found = self._left[bank].pop(0)
        if found.shape != torch.Size(shape):
            raise ValueError(
                f"{bank.name} asks for draws of shape {tuple(shape)}, the next to replay have "
                f"{tuple(found.shape)}: record them in the order of use")
        return centred(found)

    def finish(self) -> None:
        """Check that all draws were used."""
        left = {bank.name: len(some) for bank, some in self._left.items() if some}
        if left:
            raise ValueError(f"draws were not used: {left}")
