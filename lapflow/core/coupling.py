"""Contract: which noise of a batch is paired with which data in training. And the default, none."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from lapflow.core.component import Component


class Coupling(Component):
    """A pairing of the data and the noise of a batch. A pure function of them, so that a resumed run makes
    the same pairs. Each process pairs its own share of a batch."""

    kind = "coupling"

    @abstractmethod
    def pair(self, data: Tensor, noise: Tensor, groups: Tensor | None = None) -> Tensor | None:
        """data x1 and noise x0 [b, c, *sizes], in the flow's space -> for each sample of the data the row of
        its noise [b] int64, a permutation; None: the rows as they are.

        Where `groups` [b] are given (class labels), noise is exchanged within a group only: exchanged between
        classes, a class would be trained on some of the noise alone and sampled from all of it.
        """


class Independent(Coupling):
    """Every sample keeps the noise that was drawn for it."""

    def pair(self, data: Tensor, noise: Tensor, groups: Tensor | None = None) -> None:
        return None
