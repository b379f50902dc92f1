"""What does not fit together is refused when it is built, with what would."""

import pytest
import torch

from lapflow.analysis.checking import check_bands
from lapflow.core.errors import ConfigError, LapflowError, LawError, SizeError, SolverError
from lapflow.core.noise import BlurredNoise
from lapflow.core.prediction import EDMPrediction, NoisePrediction, ScorePrediction
from lapflow.flows import (
    AppendBridge,
    ConditionBridge,
    DiscreteVPPath,
    EdifyPath,
    LinearPath,
    PyramidalPath,
    RelayPath,
    RenoiseBridge,
    TransitionBridge,
    VPPath,
)
from lapflow.flows.compose import compose
from lapflow.flows.laws import check_laws
from lapflow.models.unet import UNet
from lapflow.objectives.mse import VariationalMSE, discrete
from lapflow.pyramids import BlockDCT, Identity, LaplacianPyramid, WaveletPyramid
from lapflow.sampling.sampler import integrate
from lapflow.schedules import CumulativeIntervals, Stages
from lapflow.solvers import DDIM, DDPM, EulerMaruyama, HeunEDM
from tests.flows.test_peers import Fixed, flow_of
from tests.support import images, make_flow, seeded

ONE = CumulativeIntervals(starts=[0.0])


def test_renoising_of_an_orthonormal_pyramid_by_pyramidal_windows():
    """The example of the docs: a wavelet keeps the noise's std, so windows that go back do not fit;
    continuous ones do."""
    arguments = (PyramidalPath(), TransitionBridge())
    with pytest.raises(LawError, match=r"segment 1, t = 0\.428571, scale 1 \(bridge\)") as error:
        compose(WaveletPyramid(levels=2), Stages(windows="pyramidal"), *arguments, representation="merged")
    assert "noise std 0.666667 per direction, deviation of the mean operator 0.333" in str(error.value)
    flow = compose(
        WaveletPyramid(levels=2), Stages(windows="continuous"), *arguments, representation="merged"
    )
    assert check_laws(flow).worst <= 1e-12


def test_append_where_the_noise_level_jumps():
    with pytest.raises(LawError, match="bridge"):
        compose(
            LaplacianPyramid(levels=2),
            Stages(windows="pyramidal"),
            PyramidalPath(),
            AppendBridge(),
            representation="merged",
        )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ConditionBridge(corruption_level=0.6, max_corruption_level=0.5), "corrupt more"),
        (
            lambda: compose(LaplacianPyramid(levels=2), Stages(windows="full"), VPPath(), ConditionBridge()),
            "representation: merged",
        ),
        (lambda: compose(Identity(), ONE, LinearPath(), AppendBridge(), representation="merge"), "merged"),
        (
            lambda: compose(
                BlockDCT(),
                Stages(windows="full"),
                RelayPath(),
                RenoiseBridge(),
                representation="merged",
                noise=BlurredNoise(BlockDCT()),
                prediction=ScorePrediction(),
            ),
            "coloured",
        ),
        (lambda: RelayPath(enter=5.0), "above what is trained"),
        (
            lambda: compose(
                LaplacianPyramid(levels=3),
                Stages(windows="full"),
                EdifyPath(edges=[1.0]),
                RenoiseBridge(),
                representation="merged",
                prediction=EDMPrediction(),
            ),
            "edges",
        ),
        (lambda: Stages(windows="continuous", starts=[0.0, 0.4]).segments(3), "different numbers"),
        (lambda: Stages(starts=[0.1, 0.4]), "begin at 0"),
        (lambda: Stages(weights=[1.0]).segments(2), "every scale"),
        (lambda: DiscreteVPPath(times=20).grid(ONE.segments(1)[0], 21), "more steps"),
        (lambda: discrete(LinearPath()), "discrete"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_learned_variance_that_nobody_learnt():
    flow = flow_of()
    x = images(2, 1, 4, 4)
    point = flow.training_point(x, seeded())
    with pytest.raises(ConfigError, match="learn_sigma: true"):
        VariationalMSE()(lambda *given: {"main": {0: x}}, point)

    class NoHead(Fixed):
        def predict(self, state, t):
            return {"main": super().predict(state, t)["main"]}

    segment = flow.segments[0]
    with pytest.raises(SolverError, match="learned variance"):
        DDPM(steps=3, variance="learned").solve(
            NoHead(flow, segment, (1, 4, 4)), {0: images(1, 1, 4, 4)}, segment, seeded()
        )


def test_steps_that_do_not_fit():
    for solver in (DDIM(steps=[3, 4]), HeunEDM(steps=[3, 4]), EulerMaruyama(steps=[3, 4])):
        with pytest.raises(ConfigError, match="every segment"):
            solver.require(1)
    with pytest.raises(ConfigError, match="longer than the segment"):
        check_bands(make_flow(2), EulerMaruyama(last=0.6))


def test_a_unet_that_does_not_fit():
    bands = Identity().bands((1, 12, 12))
    with pytest.raises(SizeError, match="halved 3 times"):
        UNet(bands, channels=[8, 8, 8, 8], groups=4, head_width=4, attention_levels=[1])
    with pytest.raises(ConfigError, match="multiples of groups"):
        UNet(bands, channels=[10], groups=4, head_width=4, attention_levels=[])
    with pytest.raises(ConfigError, match="no such level"):
        UNet(bands, channels=[8], groups=4, head_width=4, attention_levels=[2])


def test_velocities_alone_are_not_enough_for_a_denoising_solver():
    """Refused before anything is evaluated."""
    from tests.solvers.test_solvers import Forced

    flow, field = make_flow(1), Forced()
    noise = flow.draw_noise((1, 4, 4), 1, seeded(), dtype=torch.float64, device="cpu")
    with pytest.raises(SolverError, match="velocities only"):
        integrate(flow, lambda segment, condition: field, noise, DDIM(steps=2))
    assert not field.times


def test_a_cascade_s_network_wants_its_image():
    from lapflow.models import Separate

    flow = compose(
        LaplacianPyramid(levels=2),
        Stages(windows="full"),
        VPPath(),
        ConditionBridge(),
        representation="merged",
        prediction=NoisePrediction(),
    )
    model = Separate(flow.network_bands((1, 4, 4)), mask="self", depth=1, width=16, heads=2, patch=1)
    with pytest.raises(ConfigError, match="coarser image"):
        model({0: images(2, 1, 4, 4).float()}, torch.zeros(2))


def test_the_discrete_path_needs_no_more_than_its_own_betas():
    with pytest.raises(ConfigError):
        DiscreteVPPath(times=1)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("dit-digits", "model.learn_sigma=false"), "'variance'"),
        (("dit-digits", "objective=mse"), "'variance'"),
        (("lfm-digits", "sampling.solver={name: ddpm, variance: learned}"), "'variance'"),
        (("ldm-digits", "sampling.solver.steps=2000"), "do not divide"),
        (("ldm-digits", "sampling.solver.steps=300"), "divisor, for instance"),
        (("ldm-digits", "attention=flash"), "SDPA"),
        (("sit-vp-digits", "sampling.solver.last=1e-9", "sampling.solver.steps=1"), "two points"),
        (("lapflow-k2-digits", "flow.prediction=noise"), "divides by alpha"),
        (("edify-shipped-digits", "flow.path.enter=200.0"), "above what is trained"),
        (("cascaded-digits", "flow.noise=blurred"), "white"),
        (
            ("lapflow-digits", "flow.time_law={name: shifted, shift: [1.0, 2.0, 3.0]}"),
            "3 numbers for 2 scales",
        ),
        (("lapflow-digits", "training.optimizer={name: torch, optimizer: LBFGS}"), "no optimizer of torch"),
        (("lapflow-digits", "training.optimizer={name: torch, optimizer: Muon}"), "use the optimizer muon"),
        (
            ("lapflow-digits", "training.optimizer={name: torch, optimizer: SGD, options: {lr: 1.0}}"),
            "learning_rate",
        ),
        (
            ("lapflow-digits", "training.optimizer={name: torch, optimizer: SGD, options: {momentum: -1}}"),
            "-1",
        ),
        (
            ("lapflow-digits", "training.optimizer=muon", "engine={name: torch, parallel: fsdp2}"),
            "whole ones",
        ),
        (("lapflow-digits", "training.optimizer=muon", "engine={name: deepspeed, zero: 1}"), "whole ones"),
    ],
)
def test_what_would_fail_later_is_refused_before_any_work(overrides, words):
    from lapflow.config.building import build
    from lapflow.config.loading import load_config

    with pytest.raises(LapflowError, match=words):
        build(load_config(overrides[0], overrides[1:])).require()


def test_heun_in_sigma_wants_a_noise_level_that_moves():
    from lapflow.flows import GVPPath

    flow = compose(Identity(), ONE, GVPPath(), AppendBridge())
    with pytest.raises(SolverError, match="stands still"):
        check_bands(flow, HeunEDM(steps=5))


def test_denoised_prediction_on_paths_that_end_steeply_is_no_mistake():
    """It stops before sigma = 0; the path itself ends at the data."""
    from lapflow.core.prediction import DenoisedPrediction
    from lapflow.flows import GVPPath

    table = compose(Identity(), ONE, DiscreteVPPath(), AppendBridge(), prediction=DenoisedPrediction())
    stages = compose(
        BlockDCT(),
        Stages(windows="full"),
        GVPPath(),
        RenoiseBridge(),
        representation="merged",
        prediction=DenoisedPrediction(),
    )
    for flow in (table, stages):
        assert all(row.right for row in check_laws(flow).rows)
        assert flow.solve_t_max(flow.segments[-1]) < flow.path.solve_t_max(flow.segments[-1])
