"""Sources of random bits: what they hand out, in which order, and from where they go on."""

import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_golden.lfsr import Bank  # noqa: E402
from gradloom_study.draws import LANES, PER_WORD, Generated, Replayed, centred  # noqa: E402


def test_a_golden_half_is_no_draw():
    assert centred(torch.tensor([0, 0x8000, 0xFFFF])).tolist() == [-0x8000, 0, 0x7FFF]


def test_generated_draws_are_even_in_every_bit():
    draws = Generated(1).draw(Bank.PACK, (600, 1000)).long() + 0x8000
    count = draws.numel()
    for bit in range(16):
        share = float((draws >> bit & 1).double().mean())
        assert abs(share - 0.5) < 5 * 0.5 / count ** 0.5, bit
    for shift in (1, 2, 3, 4):
        pairs = draws.flatten()
        agree = float(((pairs[shift:] ^ pairs[:-shift]) & 1).double().mean())
        assert abs(agree - 0.5) < 5 * 0.5 / count ** 0.5, shift


def test_the_seed_decides_and_a_state_goes_on():
    one, two, other = Generated(1), Generated(1), Generated(2)
    shape = (3, 70001)
    first = one.draw(Bank.UPDATE, shape)
    assert torch.equal(first, two.draw(Bank.UPDATE, shape))
    assert not torch.equal(first, other.draw(Bank.UPDATE, shape))
    other.load_state_dict(one.state_dict())
    second = one.draw(Bank.PACK, (5,))
    assert torch.equal(second, other.draw(Bank.PACK, (5,)))
    assert not torch.equal(second, first[0, :5])


def test_small_requests_share_a_step_and_repeat_nothing():
    source = Generated(1)
    count = 3 * LANES * PER_WORD // 1000
    parts = [source.draw(Bank.PACK, (10, 100)) for _ in range(count)]
    copies = [part.clone() for part in parts]
    source.draw(Bank.PACK, (4 * PER_WORD * LANES,))
    assert all(torch.equal(part, copy) for part, copy in zip(parts, copies))
    # Four draws that come again would be a word of 64 bits that does.
    words = torch.cat(parts).flatten().view(torch.int64)
    assert len(words.unique()) == len(words)
    other = Generated(2)
    other.load_state_dict(source.state_dict())
    for shape in ((7,), (4 * LANES,), (3,)):
        assert torch.equal(source.draw(Bank.PACK, shape), other.draw(Bank.PACK, shape))


def test_no_draws_are_none():
    assert Generated(1).draw(Bank.PACK, (0, 4)).shape == (0, 4)


def test_replayed_draws_come_in_order_and_are_all_used():
    replayed = Replayed({Bank.PACK: [torch.tensor([1, 2]), torch.tensor([[3]])]})
    assert replayed.draw(Bank.PACK, (2,)).tolist() == [1 - 0x8000, 2 - 0x8000]
    with pytest.raises(ValueError, match=r"draws were not used: \{'PACK': 1\}"):
        replayed.finish()
    with pytest.raises(ValueError, match=r"PACK asks for draws of shape \(4,\), the next to replay "
                                         r"have \(1, 1\): record them in the order of use"):
        replayed.draw(Bank.PACK, (4,))
    with pytest.raises(ValueError, match="nothing is left to replay for UPDATE: record more draws"):
        replayed.draw(Bank.UPDATE, (1,))
