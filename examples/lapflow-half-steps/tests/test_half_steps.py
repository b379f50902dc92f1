"""The plugin keeps lapflow's contracts: the conformance kits, over our components."""

from lapflow_half_steps import SSPRK3, HalfSteps

from lapflow.plugins.conformance import DecompositionConformance, SolverConformance


class TestHalfSteps(DecompositionConformance):
    def make(self):
        return HalfSteps(levels=2)


class TestFourHalfSteps(DecompositionConformance):
    def make(self):
        return HalfSteps(levels=5)


class TestSSPRK3(SolverConformance):
    def make(self):
        return SSPRK3(steps=4)
