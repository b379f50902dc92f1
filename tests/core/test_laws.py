"""The law check: exact for what is right, and it finds what is wrong."""

from itertools import pairwise

import pytest
import torch

from lapflow.core.errors import LawError, SizeError
from lapflow.core.path import Coefficients, Path
from lapflow.flows import AppendBridge, GVPPath, LinearPath, PyramidalPath, TransitionBridge, VPPath
from lapflow.flows.compose import compose
from lapflow.flows.laws import check_laws
from lapflow.flows.paths.affine import AffinePath
from lapflow.plugins import create
from lapflow.pyramids import BlockDCT, Identity, LaplacianPyramid, WaveletPyramid
from lapflow.schedules import CumulativeIntervals, Stages
from tests.support import AXES, DECOMPOSITIONS, STARTS, make_flow


class UnitNoise(AppendBridge):
    """The mistake of other code: a scale enters with unit noise at its own start."""

    def cross(self, state, noise, before, after, path):
        return {k: state[k] if k in state else noise[0][k] for k in after.scales}


class Rescaled(AppendBridge):
    """Touches the scale in progress."""

    def cross(self, state, noise, before, after, path):
        return {
            k: x * (0.9 if k in state else 1)
            for k, x in super().cross(state, noise, before, after, path).items()
        }


class Mixed(AppendBridge):
    """The right stds in every band, but the new band's noise is taken from the wrong place: correlated with a
    coarser band."""

    def cross(self, state, noise, before, after, path):
        out = super().cross(state, noise, before, after, path)
        return {
            k: x if k in state or not state else out[k].flip(-1) + 0.1 * state[k + 1].mean()
            for k, x in out.items()
        }


@pytest.mark.parametrize("noise", ["decomposed", "independent"])
@pytest.mark.parametrize("path", ["linear", "gvp"])
@pytest.mark.parametrize("decomposition", DECOMPOSITIONS)
@pytest.mark.parametrize("levels", STARTS)
def test_lapflow_is_exact(levels, decomposition, path, noise):
    report = check_laws(make_flow(levels, decomposition, path, noise))
    assert report.worst <= 1e-12
    assert all(row.right and row.prior == 0 for row in report.rows)
    places = [row.place for row in report.rows]
    assert places.count("start") == 1
    assert places.count("end") == levels
    assert places.count("bridge") == sum(range(2, levels + 1))


def test_reported_noise_stds_are_the_paths():
    rows = check_laws(make_flow(3)).rows
    stds = {(r.segment, r.scale): r.noise_std for r in rows if r.place != "end"}
    assert stds[0, 2] == pytest.approx(0.25)
    assert stds[1, 2] == pytest.approx(0.67 * 0.25)
    assert stds[1, 1] == pytest.approx(0.67 * 0.5)
    assert stds[2, 0] == pytest.approx(0.33)


def test_the_prior_of_vp_is_reported_and_not_an_error():
    rows = check_laws(make_flow(2, path="vp")).rows
    assert rows[0].prior == pytest.approx(0.0066, abs=1e-4)
    assert all(row.right for row in rows)


@pytest.mark.parametrize("bridge", [UnitNoise, Rescaled, Mixed])
def test_a_wrong_bridge_is_refused_when_the_composition_is_built(bridge):
    arguments = (LaplacianPyramid(levels=2), CumulativeIntervals(starts=[0, 0.5]), LinearPath(), bridge())
    with pytest.raises(LawError, match="segment") as error:
        compose(*arguments)
    assert "scale" in str(error.value)
    assert "expected" in str(error.value)
    assert not all(row.right for row in check_laws(compose(*arguments, check=False)).rows)


def test_unit_noise_is_reported_with_both_stds():
    flow = compose(
        LaplacianPyramid(levels=2),
        CumulativeIntervals(starts=[0, 0.5]),
        LinearPath(),
        UnitNoise(),
        check=False,
    )
    (row,) = [r for r in check_laws(flow).rows if not r.right]
    assert (row.segment, row.scale, row.place) == (1, 0, "bridge")
    assert (row.noise_std, row.expected_noise_std) == pytest.approx((1.0, 0.5))


class HalfWay(AffinePath):
    """Never arrives: alpha ends at 1/2."""

    def data_part(self, u):
        return u / 2, torch.ones_like(u) / 2

    def noise_part(self, t):
        return 1 - t, -torch.ones_like(t)


class LateStart(VPPath):
    """Still holds half the data where it starts from noise."""

    def data_part(self, u):
        return (1 + u) / 2, torch.ones_like(u) / 2


@pytest.mark.parametrize(
    ("path", "message"), [(HalfWay, "does not end at the data"), (LateStart, "pure noise")]
)
def test_wrong_paths_are_refused(path, message):
    with pytest.raises(LawError, match=message):
        compose(LaplacianPyramid(levels=2), CumulativeIntervals(starts=[0, 0.5]), path(), AppendBridge())


class OneAfterTheOther(Path):
    """A scale is finished where the next one enters: no noise is left in it there."""

    def coefficients(self, t, segment, scale):
        start, stop = segment.scale_starts[scale], segment.scale_starts.get(scale - 1, segment.stop)
        v, slope = (t - start) / (stop - start), torch.full_like(t, 1 / (stop - start))
        return Coefficients(v.clamp(max=1), 1 - v.clamp(max=1), slope * (v < 1), -slope * (v < 1))


class NoisesWhatIsFinished(AppendBridge):
    def cross(self, state, noise, before, after, path):
        return {
            k: x + 1e-3 * noise[0][k] if k in state else x
            for k, x in super().cross(state, noise, before, after, path).items()
        }


def test_a_scale_may_be_finished_before_the_end():
    """Its noise is 0 at the next bridge: what the sampler has there is compared with the segment's own
    noise."""
    parts = LaplacianPyramid(levels=3), CumulativeIntervals(starts=STARTS[3]), OneAfterTheOther()
    report = check_laws(compose(*parts, AppendBridge()))
    assert report.worst == 0
    assert [row.noise_std for row in report.rows if row.place == "bridge"] == [0, 0.5, 0, 0, 1]
    with pytest.raises(LawError, match=r"segment 1, t = 0\.33, scale 2"):
        compose(*parts, NoisesWhatIsFinished())
    with pytest.raises(LawError, match=r"segment 1, t = 0\.33, scale 2"):
        compose(*parts, Rescaled())


def pyramidal(axes, intervals=None):
    parts = LaplacianPyramid(levels=3, axes=axes), intervals or Stages(windows="pyramidal"), PyramidalPath()
    return compose(*parts, TransitionBridge(), representation="merged")


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_the_law_is_exact_with_one_two_and_three_axes(axes):
    for decomposition in (LaplacianPyramid, WaveletPyramid):
        for path in (LinearPath(), GVPPath()):
            parts = decomposition(levels=3, axes=axes), CumulativeIntervals(starts=STARTS[3]), path
            for noise in ("decomposed", "independent"):
                split = parts[0]
                flow = compose(*parts, AppendBridge(), noise=create("noise", noise, decomposition=split))
                assert check_laws(flow).worst <= 1e-12
    assert check_laws(pyramidal(axes)).worst <= 1e-12


class ImagesWindows(Stages):
    """Pyramidal Flow's windows for images, e / (2 - e), whatever is halved."""

    def segments(self, levels, contractions=None):
        return super().segments(levels)


@pytest.mark.parametrize("axes", [1, 3])
def test_windows_made_for_images_are_refused_elsewhere(axes):
    with pytest.raises(LawError, match="deviation of the mean"):
        pyramidal(axes, ImagesWindows(windows="pyramidal"))
    windows = [s.window for s in pyramidal(axes).segments]
    for (_, e), (s, _) in pairwise(windows):
        assert s == pytest.approx(e / (e + 2 ** (axes / 2) * (1 - e)))


def test_block_means_of_four_have_windows_of_their_own():
    """Sixteen pixels a mean: c = 4."""
    parts = BlockDCT(), Stages(windows="pyramidal"), PyramidalPath(), TransitionBridge()
    flow = compose(*parts, representation="merged")
    assert flow.segments[1].window[0] == pytest.approx(0.5 / (0.5 + 4 * 0.5))
    assert check_laws(flow).worst <= 1e-12


def test_blurred_noise_is_for_images():
    with pytest.raises(SizeError, match="blurred noise is for images alone"):
        create("noise", "blurred", decomposition=Identity(axes=1))
