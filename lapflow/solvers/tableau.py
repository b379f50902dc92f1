"""Explicit Runge-Kutta methods as data: a tableau that checks itself when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Tableau:
    """Butcher tableau of an explicit method of s stages: a (s rows, strictly lower triangular), b, c and the
    `order`.

    Checked: shapes, c_i = sum_j a_ij, and the order conditions up to `order` (1 to 4; Hairer, Norsett &
    Wanner, II.2).
    """

    a: tuple[tuple[Fraction, ...], ...]
    b: tuple[Fraction, ...]
    c: tuple[Fraction, ...]
    order: int

    @classmethod
    def explicit(cls, *rows: str, weights: str, order: int) -> Tableau:
        """A tableau from rows of fractions, such as `explicit("", "1/2", weights="0 1", order=2)`; c is the
        row sums."""
        a = tuple(tuple(Fraction(x) for x in row.split()) for row in rows)
        return cls(
            a, tuple(Fraction(x) for x in weights.split()), tuple(sum(row, Fraction(0)) for row in a), order
        )

    def __post_init__(self) -> None:
        stages = len(self.b)
        assert len(self.c) == stages, "c has one entry per stage"
        assert [len(row) for row in self.a] == list(range(stages)), "row i of a holds i entries"
        assert all(sum(row) == c for row, c in zip(self.a, self.c)), "c_i must be the sum of row i of a"
        assert 1 <= self.order <= 4, "order conditions are written out for orders 1 to 4"
        for condition, value in self._conditions()[: (1, 2, 4, 8)[self.order - 1]]:
            assert condition == value, (
                f"an order-{self.order} condition does not hold: {condition} != {value}"
            )

    def _conditions(self) -> list[tuple[Fraction, Fraction]]:
        """The order conditions of trees with 1, 2, 3 and 4 nodes: (sum, required value)."""
        b, c = self.b, self.c
        ac = [sum((x * y for x, y in zip(row, c)), Fraction(0)) for row in self.a]
        ac2 = [sum((x * y * y for x, y in zip(row, c)), Fraction(0)) for row in self.a]
        aac = [sum((x * y for x, y in zip(row, ac)), Fraction(0)) for row in self.a]

        def dot(*factors: list[Fraction] | tuple[Fraction, ...]) -> Fraction:
            total = Fraction(0)
            for terms in zip(b, *factors):
                product = Fraction(1)
                for term in terms:
                    product *= term
                total += product
            return total

        sums = [dot(), dot(c), dot(c, c), dot(ac), dot(c, c, c), dot(c, ac), dot(ac2), dot(aac)]
        return list(zip(sums, map(Fraction, ("1", "1/2", "1/3", "1/6", "1/4", "1/8", "1/12", "1/24"))))
