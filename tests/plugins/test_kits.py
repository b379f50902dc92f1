"""The conformance kits catch what they are for: each wrong component fails the promise it breaks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lapflow.core.dataset import Sample
from lapflow.core.errors import DataError
from lapflow.core.solver import History
from lapflow.data import Digits
from lapflow.features import PixelFeatures
from lapflow.flows import AppendBridge, LinearPath
from lapflow.models import Pixels
from lapflow.plugins import conformance as kits
from lapflow.pyramids import LaplacianPyramid
from lapflow.sampling.guidance import ClassifierFreeGuidance
from lapflow.schedules import CumulativeIntervals
from lapflow.solvers import AdamsBashforth2, Euler, Heun
from lapflow.solvers.adaptive import Dopri5


class WrongStd(LaplacianPyramid):
    def bands(self, shape):
        return {k: replace(band, pixel_std=0.9) for k, band in super().bands(shape).items()}


class NoProjector(LaplacianPyramid):
    def project(self, x, scale):
        return x


class FineFirst(LaplacianPyramid):
    def analyze(self, x, start=0):
        return dict(reversed(super().analyze(x, start).items()))


class ForgetsStart(LaplacianPyramid):
    def synthesize(self, state, start=0):
        return super().synthesize({**state, start: 0.5 * state[start]} if start else state, start)


class WrongDerivative(LinearPath):
    def noise_part(self, t):
        b, _ = super().noise_part(t)
        return b, torch.ones_like(t)


class ClaimsTooMuch(Euler):
    order = 2


class LooksOutside(Euler):
    def solve(self, field, state, segment, generator=None, observe=None, history=None):
        field.velocity(state, segment.stop + 0.1)
        return super().solve(field, state, segment, generator, observe)


class RemembersItself(AdamsBashforth2):
    """Its history is on the solver."""

    def solve(self, field, state, segment, generator=None, observe=None, history=None):
        self.own = self.start_history()
        return super().solve(field, state, segment, generator, observe, self.own)

    def step(self, field, state, t, t_next, generator, history=None):
        return super().step(field, state, t, t_next, generator, self.own)


class KeepsWhatWasEdited(AdamsBashforth2):
    """Goes on from the velocity before an observer's edit."""

    class Stubborn(History):
        def keep(self, scales):
            pass

    def start_history(self):
        return self.Stubborn()


class ForgetsAtBorders(AdamsBashforth2):
    """Takes no notice of the history that it is given."""

    def solve(self, field, state, segment, generator=None, observe=None, history=None):
        return super().solve(field, state, segment, generator, observe)


class CountsBeforehand(Dopri5):
    fixed_work = True


class MixesSamples(AppendBridge):
    def cross(self, state, noise, before, after, path):
        return {k: x + x.mean(0) for k, x in super().cross(state, noise, before, after, path).items()}


class AddsOne(AppendBridge):
    def cross(self, state, noise, before, after, path):
        return {k: x + 1 for k, x in super().cross(state, noise, before, after, path).items()}


class TimesPastTheEnd(CumulativeIntervals):
    def draw(self, segments, batch, **rest):
        return super().draw(segments, batch, **{**rest, "ends": [1.5] * len(segments)})


class AlwaysDoubles(ClassifierFreeGuidance):
    def combine(self, conditional, unconditional, levels):
        return {k: 2 * v for k, v in conditional.items()}


class DrawsGlobally(Pixels):
    def latents(self, moments, generator=None):
        return moments + torch.randn_like(moments)


class DrawsForTheBatch(Pixels):
    def latents(self, moments, generator=None):
        return moments if generator is None else moments + torch.randn(1, generator=generator[0])


class EncodesOtherwise(Pixels):
    def encode(self, images, generator=None):
        return 2 * images


class KeepsAnObject(Pixels):
    def identity(self):
        return {"weights": object()}


class MirrorsUpsideDown(Digits):
    def read_mirrored(self, split, index):
        sample = self.read(split, index)
        image, label = sample.value, sample.annotations.get("label", 0)
        return Sample(image.flip(-2), {"label": label})


class MirrorsInPlace(Digits):
    def read_mirrored(self, split, index):
        self.kept = getattr(self, "kept", {})
        if index not in self.kept:
            self.kept[index] = super().read_mirrored(split, index)
        return self.kept[index]


class RefusesOnlyBefore(Digits):
    def require_mirrored(self):
        raise DataError("no mirrored images")


class MixesImages(PixelFeatures):
    def __call__(self, images):
        return super().__call__(images - images.mean(0))


class SinglePrecision(PixelFeatures):
    def __call__(self, images):
        return super().__call__(images).float()


class KnownByItsPlace(PixelFeatures):
    def identity(self):
        return {"weights": id(self)}


WRONG = [
    (kits.FeaturesConformance, MixesImages, "test_images_do_not_mix_and_are_told_apart"),
    (kits.FeaturesConformance, SinglePrecision, "test_one_finite_float64_vector_per_image"),
    (kits.FeaturesConformance, KnownByItsPlace, "test_identity_is_plain_and_repeats"),
    (kits.CodecConformance, DrawsGlobally, "test_draws_come_from_the_sample_s_own_generator"),
    (kits.CodecConformance, DrawsForTheBatch, "test_draws_come_from_the_sample_s_own_generator"),
    (kits.CodecConformance, EncodesOtherwise, "test_encoding_is_the_latents_of_the_moments"),
    (kits.CodecConformance, KeepsAnObject, "test_identity_is_plain_and_repeats"),
    (kits.DatasetConformance, MirrorsUpsideDown, "test_mirrored_samples_are_of_the_mirrored_image"),
    (kits.DatasetConformance, MirrorsInPlace, "test_mirrored_samples_are_of_the_mirrored_image"),
    (kits.DatasetConformance, RefusesOnlyBefore, "test_mirrored_samples_are_of_the_mirrored_image"),
    (kits.DecompositionConformance, WrongStd, "test_declared_stds_are_those_of_the_operator"),
    (kits.DecompositionConformance, NoProjector, "test_declared_stds_are_those_of_the_operator"),
    (kits.DecompositionConformance, FineFirst, "test_bands_come_coarse_to_fine_in_the_declared_shapes"),
    (kits.DecompositionConformance, ForgetsStart, "test_reconstruction_at_every_start"),
    (kits.PathConformance, WrongDerivative, "test_velocity_is_the_derivative_of_position"),
    (kits.SolverConformance, ClaimsTooMuch, "test_it_converges_at_its_order"),
    (kits.SolverConformance, LooksOutside, "test_nothing_is_evaluated_outside_the_segment"),
    (kits.SolverConformance, LooksOutside, "test_statistics_count_the_work"),
    (kits.SolverConformance, RemembersItself, "test_two_solves_may_interleave"),
    (kits.SolverConformance, KeepsWhatWasEdited, "test_after_an_edit_the_solver_starts_anew"),
    (kits.SolverConformance, ForgetsAtBorders, "test_a_history_without_scales_is_a_new_one"),
    (kits.SolverConformance, CountsBeforehand, "test_fixed_work_does_not_depend_on_the_state"),
    (kits.BridgeConformance, MixesSamples, "test_samples_do_not_mix"),
    (kits.BridgeConformance, AddsOne, "test_linear_in_state_and_noise"),
    (kits.IntervalsConformance, TimesPastTheEnd, "test_times_lie_in_the_segment_s_domain"),
    (kits.GuidanceConformance, AlwaysDoubles, "test_equal_predictions_are_left_alone"),
    (kits.PathConformance, Heun, "test_is_a_component_of_its_kind"),
]


@pytest.mark.parametrize(
    ("kit", "wrong", "promise"), WRONG, ids=[f"{wrong.__name__}-{promise}" for _, wrong, promise in WRONG]
)
def test_a_broken_promise_is_caught(kit, wrong, promise):
    tried = type("Tried", (kit,), {"make": lambda _: wrong()})()
    with pytest.raises((AssertionError, ValueError, TypeError)):
        getattr(tried, promise)()


def test_the_kit_needs_no_pytest():
    import subprocess
    import sys

    script = "import sys; import lapflow.plugins.conformance; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
