"""Contract: how conditional and unconditional predictions combine."""

from __future__ import annotations

from abc import abstractmethod

from lapflow.core.component import Component
from lapflow.core.state import State, StateView


class Guidance(Component):
    """Guidance of a conditional velocity by an unconditional one."""

    kind = "guidance"

    @property
    @abstractmethod
    def off(self) -> bool:
        """Whether the unconditional prediction is never needed; if not, sampling needs a condition."""

    def require(self, levels: int) -> None:
        """Raises `ConfigError` unless the settings fit a composition of `levels` scales."""

    @abstractmethod
    def active(self, t: float) -> bool:
        """Whether the unconditional prediction is needed at time `t`; where not, it is not computed."""

    @abstractmethod
    def combine(self, conditional: StateView, unconditional: StateView, levels: int) -> State:
        """The guided velocity of every active scale; `levels` is the composition's number of scales."""
