"""How a hash is dealt out among the legs of an equal-cost group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd

EXACT_SHARES = 64
"""Legs whose weights add up to no more get just that many numbers each."""

SHARES = 1024
"""So many numbers are dealt out among legs of any other weights; a power of two.  The switch hashes
once for each number, with the first packet of a connection: some 3 us."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How the numbers 0 .. count-1, one of which is drawn by hash, are dealt out among legs.

    `blocks` are (first number, how many: a power of two that divides the first number, leg), which
    is what one flow can match.  They are few whatever the weights.
    """

    count: int
    blocks: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, legs: Sequence[tuple[int, int]]) -> Shares:
        """The shares of (leg, weight), in proportion to the weights: exactly, where they are small
        numbers or multiples of such; otherwise to 1/1024, and a leg has that at least.

        A flow stays with its leg as long as that leg's numbers do not move.
        """
        common = gcd(*(weight for _, weight in legs))
        weights = [weight // common for _, weight in legs]
        if sum(weights) <= max(EXACT_SHARES, len(legs)):
            return cls(sum(weights), tuple(_blocks(legs, weights)))
        return cls(SHARES, tuple(_blocks(legs, _apportioned(weights, SHARES))))

    def leg(self, number: int) -> int:
        """The leg that a number (0 .. count-1) belongs to."""
        return next(leg for start, size, leg in self.blocks if start <= number < start + size)


def _apportioned(weights: Sequence[int], seats: int) -> list[int]:
    """`seats` dealt out in proportion to the weights, at least one each (largest remainders)."""
    total, free = sum(weights), seats - len(weights)
    given = [1 + free * weight // total for weight in weights]
    order = sorted(range(len(weights)), key=lambda n: (-(free * weights[n] % total), n))
    for n in order[: seats - sum(given)]:
        given[n] += 1
    return given


def _blocks(
    legs: Sequence[tuple[int, int]], given: Sequence[int]
) -> Iterator[tuple[int, int, int]]:
    """Each leg's numbers as powers of two, the largest first, so that each begins at a multiple of
    itself."""
    parts = [
        (1 << bit, n)
        for n, numbers in enumerate(given)
        for bit in range(numbers.bit_length())
        if numbers >> bit & 1
    ]
    start = 0
    for size, n in sorted(parts, key=lambda part: (-part[0], part[1])):
        yield start, size, legs[n][0]
        start += size
