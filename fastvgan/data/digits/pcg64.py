"""The random numbers of numpy.random.default_rng, without numpy, which the plain install lacks.

Runs have chosen their held-out captions by numpy since the first version, and a resumed or repeated run must choose the
same. The generator is PCG64 (O'Neill 2014, XSL RR 128/64), seeded by numpy's SeedSequence, which numpy guarantees to
keep (NEP 19); the hash is that of O'Neill's seed_seq_fe.
"""

from collections.abc import Iterator

_MASK32, _MASK64, _MASK128 = 2**32 - 1, 2**64 - 1, 2**128 - 1
_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
_POOL = 4  # words of 32 bits
_INIT_A, _MULT_A = 0x43B0D7E5, 0x931E8875
_INIT_B, _MULT_B = 0x8B51F9DD, 0x58F38DED
_MIX_LEFT, _MIX_RIGHT = 0xCA01F9DD, 0x4973F715


def uniforms(seed: int) -> Iterator[float]:
    """Yield the numbers in [0, 1) that numpy.random.default_rng(seed).random() returns, endlessly.

    Args:
        seed: 0 or greater.
    """
    high, low, high_step, low_step = _seed_words(seed)
    step = ((high_step << 64 | low_step) << 1 | 1) & _MASK128
    state = (step + (high << 64 | low)) * _MULTIPLIER + step & _MASK128
    while True:
        state = state * _MULTIPLIER + step & _MASK128
        word, turn = (state >> 64 ^ state) & _MASK64, state >> 122
        word = (word >> turn | word << (64 - turn)) & _MASK64
        yield (word >> 11) * 2**-53


class _Hash:
    """A hash of 32-bit words whose constant changes with each of them."""

    def __init__(self, constant: int, multiplier: int):
        self._constant, self._multiplier = constant, multiplier

    def __call__(self, word: int) -> int:
        word ^= self._constant
        self._constant = self._constant * self._multiplier & _MASK32
        word = word * self._constant & _MASK32
        return word ^ word >> 16


def _seed_words(seed: int) -> tuple[int, int, int, int]:
    """Expand a seed to four words of 64 bits, as SeedSequence(seed).generate_state(4, uint64) does."""
    entropy = [seed >> shift & _MASK32 for shift in range(0, max(1, seed.bit_length()), 32)]
    mixed = _Hash(_INIT_A, _MULT_A)
    pool = [mixed(word) for word in (entropy + [0] * _POOL)[:_POOL]]
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                pool[target] = _mix(pool[target], mixed(pool[source]))
    for word in entropy[_POOL:]:
        pool = [_mix(kept, mixed(word)) for kept in pool]
    drawn = _Hash(_INIT_B, _MULT_B)
    words = [drawn(pool[i % _POOL]) for i in range(8)]
    a, b, c, d = (low | high << 32 for low, high in zip(words[::2], words[1::2], strict=True))
    return a, b, c, d


def _mix(left: int, right: int) -> int:
    word = _MIX_LEFT * left - _MIX_RIGHT * right & _MASK32
    return word ^ word >> 16
