"""The conformance kit over every built-in component. A built-in without an entry fails
`test_every_built_in_is_tried`."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from lapflow.core.condition import ClassesSpec, TokensSpec, VectorSpec
from lapflow.core.intervals import Segment
from lapflow.core.prediction import NoisePrediction
from lapflow.flows import AppendBridge, DiscreteVPPath
from lapflow.flows.compose import compose
from lapflow.flows.flow import Flow
from lapflow.plugins import create
from lapflow.plugins.conformance import KITS
from lapflow.plugins.kinds import BUILTIN
from lapflow.plugins.kits.base import Conformance
from lapflow.plugins.kits.network import two_scales
from lapflow.pyramids import BlockDCT, Identity, LaplacianPyramid
from lapflow.schedules import CumulativeIntervals, Stages
from tests.support import cached_glyphs, small_autoencoder, small_inception

ONE_SCALE = (Segment(0, 0.0, 1.0, {0: 0.0}),)
FULL = (Segment(0, 0.0, 0.5, {1: 0.0}, (0.0, 1.0)), Segment(1, 0.5, 1.0, {1: 0.0, 0: 0.0}, (0.0, 1.0)))
WINDOWS = tuple(Stages(windows="pyramidal").segments(3))
"""Segments for the paths that want others than the kit's."""


def discrete_diffusion() -> Flow:
    """DiT's composition."""
    return compose(
        Identity(),
        CumulativeIntervals(starts=[0.0]),
        DiscreteVPPath(),
        AppendBridge(),
        prediction=NoisePrediction(),
    )


SENTENCES = {"class": ClassesSpec(3), "caption": TokensSpec(4, vocabulary=5)}


class Case:
    """A kit over one configuration of a built-in: `kit` attributes override the kit's, the rest are the
    component's arguments."""

    def __init__(self, kind: str, name: str, kit: dict[str, Any] | None = None, **arguments: Any) -> None:
        self.kind, self.name, self.kit, self.arguments = kind, name, kit or {}, arguments

    def __str__(self) -> str:
        return "-".join([self.kind, self.name, *(f"{k}={v}" for k, v in self.arguments.items())]).replace(
            " ", ""
        )

    def make(self) -> Any:
        context = {}
        if self.kind == "backbone":
            context = {
                "bands": self.kit.get("bands", two_scales()),
                "condition": self.kit.get("condition", 3),
                "attention": create("attention", "sdpa"),
            }
        if self.kind == "noise":
            context = {"decomposition": self.kit["decomposition"]}
        if self.kind == "conditioner":
            context = {"class_names": KITS[self.kind].class_names}
        return create(self.kind, {"name": self.name, **self.arguments}, **context)

    def conformance(self) -> Conformance:
        kit = type("Kit", (KITS[self.kind],), {"make": lambda _: self.make(), **self.kit})
        return kit()


CASES = [
    Case("decomposition", "identity"),
    *(Case("decomposition", "laplacian", levels=levels) for levels in (1, 2, 3)),
    *(Case("decomposition", "wavelet", levels=levels) for levels in (1, 2, 3)),
    Case("decomposition", "wavelet", {"side": 8}, levels=2, wavelet="db2"),
    *(Case("decomposition", "identity", axes=axes) for axes in (1, 3)),
    *(
        Case("decomposition", name, {"channels": 1}, levels=3, axes=axes)
        for name in ("laplacian", "wavelet")
        for axes in (1, 3, [False, True, True], [[True, True, True], [True, False, True]])
    ),
    *(Case("decomposition", "wavelet", {"channels": 1}, levels=2, wavelet="db2", axes=n) for n in (1, 3)),
    Case("intervals", "cumulative"),
    Case(
        "intervals",
        "cumulative",
        {"levels": 3},
        starts=[0.0, 0.33, 0.67],
        segment_sampling="sample",
        weights=[1.0, 2.0, 0.5],
    ),
    Case("decomposition", "block-dct"),
    *(
        Case("intervals", "stages", {"levels": 3}, windows=windows)
        for windows in ("continuous", "full", "pyramidal")
    ),
    *(Case("intervals", "stages", {"levels": 3, "contractions": [2**0.5, c]}) for c in (2**0.5, 2**1.5)),
    Case("intervals", "cumulative", {"levels": 3}, starts=[0.0, 0.33, 0.67], segment_sampling="balanced"),
    Case("intervals", "stages", starts=[0.0, 0.3], segment_sampling="sample", weights=[1.0, 2.0]),
    *(Case("path", name) for name in ("linear", "gvp", "vp")),
    Case("path", "linear", noise_floor=1e-5),
    Case("path", "vp-discrete", {"segments": ONE_SCALE}),
    Case(
        "path",
        "vp-discrete",
        {"segments": ONE_SCALE, "start_bound": 0.02},
        betas="scaled-linear",
        spacing="leading",
        clean_end=False,
    ),
    Case("path", "pyramidal", {"segments": WINDOWS, "continuous": False}),
    Case("path", "edm", {"segments": ONE_SCALE, "start_bound": 0.013}),
    Case("path", "edify", {"start_bound": 0.013}),
    Case(
        "path", "edify", {"segments": FULL, "continuous": False, "start_bound": 0.013}, edges=[1.0], enter=0.5
    ),
    Case("path", "relay", {"segments": FULL, "continuous": False, "sub_bands": 15, "start_bound": 0.04}),
    Case("bridge", "append"),
    Case("bridge", "transition"),
    Case("bridge", "renoise"),
    Case("bridge", "condition"),
    Case("bridge", "condition", corrupt="after", corruption_level=0.3),
    *(
        Case("noise", name, {"decomposition": decomposition})
        for name in BUILTIN["noise"]
        for decomposition in (LaplacianPyramid(levels=2), BlockDCT())
    ),
    *(
        Case("noise", name, {"decomposition": LaplacianPyramid(levels=2, axes=axes), "shape": shape})
        for name in ("decomposed", "independent")
        for axes, shape in ((1, (1, 8)), (3, (1, 4, 4, 4)))
    ),
    Case("time_law", "uniform"),
    Case("time_law", "logit-normal", mean=[0.0, -0.4], std=1.2),
    Case("time_law", "shifted", shift=[1.0, 3.0]),
    *(Case("coupling", name) for name in BUILTIN["coupling"]),
    *(
        Case("bridge", name, {"axes": axes})
        for name in ("append", "transition", "renoise", "condition")
        for axes in (1, 3)
    ),
    *(Case("prediction", name) for name in ("velocity", "denoised", "noise", "score", "edm")),
    Case("prediction", "edm", sigma_data=0.7, max_weight=10.0),
    Case("backbone", "mot-dit", depth=2, width=16, heads=2),
    Case("backbone", "mot-dit", {"condition": 0}, depth=2, width=16, heads=2, mask="none"),
    Case("backbone", "separate", depth=2, width=16, heads=2),
    Case("backbone", "separate", depth=1, width=16, heads=2, mask="self"),
    Case("backbone", "unet", channels=[8, 8], layers=1, attention_levels=[1], head_width=4, groups=4),
    Case("backbone", "mot-dit", depth=1, width=16, heads=2, learn_sigma=True),
    *(
        Case("backbone", name, {"bands": two_scales(axes)}, depth=1, width=12, heads=2)
        for name in ("mot-dit", "separate")
        for axes in (1, 3)
    ),
    Case("backbone", "mot-dit", {"condition": {"vector": VectorSpec(2)}}, depth=1, width=16, heads=2),
    *(
        Case("backbone", name, {"condition": SENTENCES}, depth=2, width=16, heads=2, given_tokens=way)
        for name in ("mot-dit", "separate")
        for way in ("group", "cross-attention", "in-context")
    ),
    Case("conditioner", "classes"),
    Case("conditioner", "vector", names=["angle"], mean=[1.0], std=[2.0]),
    Case("conditioner", "bytes", length=20),
    Case("backbone", "mot-dit", depth=1, width=16, heads=2, second_time=True),
    Case("backbone", "separate", depth=1, width=16, heads=2, second_time=True, conditioning="in-context"),
    Case("codec", "pixels", {"round_trip": 0.0}),
    *(Case("codec", "pixels", {"round_trip": 0.0, "shape": s}) for s in ((1, 32), (2, 4, 8, 8))),
    Case("codec", "autoencoder-kl", factor=2, channels=2),
    Case("codec", "autoencoder-kl", factor=2, channels=2, posterior="sample"),
    Case("objective", "mse"),
    Case(
        "objective",
        "vlb",
        {"least_at_target": False, "heads_needed": ("variance",), "flow": lambda kit: discrete_diffusion()},
    ),
    Case("optimizer", "adamw", weight_decay=0.01),
    Case("optimizer", "torch", optimizer="SGD", options={"momentum": 0.9}),
    Case("optimizer", "torch", optimizer="RAdam"),
    Case("optimizer", "muon", weight_decay=0.01),
    *(Case("solver", name, steps=4) for name in ("euler", "midpoint", "heun", "rk4", "ab2")),
    *(Case("solver", name) for name in ("dopri5", "dopri8", "bosh3", "adaptive-heun")),
    # Its error estimate is 1/512 of a step's change of slope, so the tolerance that meets 1e-4 is far below
    # 1e-4.
    Case("solver", "fehlberg2", rtol=1e-7, atol=1e-7),
    *(Case("solver", name, steps=8) for name in ("ddim", "heun-edm")),
    *(
        Case("solver", name, {"deterministic": False}, steps=8)
        for name in ("ddpm", "relay", "euler-maruyama")
    ),
    Case("solver", "ddim", {"deterministic": False}, steps=8, eta=0.7),
    *(Case("solver", name, {"axes": axes}, steps=8) for name in ("heun", "ddim") for axes in (1, 3)),
    *(Case("solver", "dopri5", {"axes": axes}) for axes in (1, 3)),
    *(Case("solver", "euler-maruyama", {"axes": a, "deterministic": False}, steps=8) for a in (1, 3)),
    Case("guidance", "cfg"),
    Case("guidance", "cfg", scale=[1.5, 3.0], interval=[0.2, 0.8], channels=3),
    *(Case("attention", name) for name in BUILTIN["attention"]),
    Case("engine", "torch", device="cpu"),
    Case("engine", "torch", device="cpu", parallel="fsdp2"),
    Case("engine", "deepspeed", device="cpu", zero=0),
    Case("engine", "deepspeed", device="cpu", zero=1),
    Case("engine", "deepspeed", device="cpu", zero=2),
    Case("engine", "deepspeed", device="cpu", zero=3),
    Case("engine", "deepspeed", device="cpu", zero=2, offload=True),
    Case("engine", "deepspeed", device="cpu", zero=3, offload=True),
    Case("dataset", "digits"),
    Case("dataset", "glyphs", size=16, train=40, test=10),
    Case("dataset", "moving-digits", films=8),
    Case("dataset", "ecg"),
    Case("dataset", "captioned-digits", train=20, test=10),
    Case("dataset", "folder"),
    Case("dataset", "latents", {"flip": True}),
    Case("dataset", "latents", {"flip": False}),
    Case("features", "pixels"),
    Case("features", "inception"),
    Case("features", "inception", resize="antialiased", batch_size=2),
    Case("features", "module", target="tests.support:mean_and_spread"),
    Case("features", "module", target="tests.support:SmallInception"),
]


def folder_of_pictures(root: Any) -> None:
    """Two classes of two small pictures."""
    from PIL import Image

    for label, name in enumerate(("black", "white")):
        (root / name).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (9, 9), (200 * label + index,) * 3).save(root / name / f"{index}.png")


def promises(kind: str) -> list[str]:
    return [
        name for name, _ in inspect.getmembers(KITS[kind], inspect.isfunction) if name.startswith("test_")
    ]


def on_disk(case: Case, root: Any) -> Case:
    """The case with the files that it reads, made in `root`."""
    if case.name == "folder":
        folder_of_pictures(root / "pictures")
        return Case(case.kind, case.name, case.kit, root=str(root / "pictures"), size=8)
    if case.name == "latents":
        cached_glyphs(root / "latents", root / "autoencoder", flip=case.kit["flip"])
        return Case(case.kind, case.name, path=str(root / "latents"))
    if case.name == "autoencoder-kl":
        small_autoencoder(root / "autoencoder")
        return Case(case.kind, case.name, case.kit, path=str(root / "autoencoder"), **case.arguments)
    if case.name == "inception":
        spec = small_inception(root / "inception.pt")
        return Case(
            case.kind, case.name, case.kit, **{k: v for k, v in spec.items() if k != "name"}, **case.arguments
        )
    return case


@pytest.mark.parametrize(
    ("case", "promise"), [pytest.param(c, p, id=f"{c}-{p}") for c in CASES for p in promises(c.kind)]
)
def test_built_in_keeps_its_contract(case: Case, promise: str, tmp_path: Any) -> None:
    case = on_disk(case, tmp_path)
    torch.manual_seed(0)
    getattr(case.conformance(), promise)()


def test_every_built_in_is_tried() -> None:
    tried = {(case.kind, case.name) for case in CASES}
    missing = [
        f"{kind} {name}" for kind, found in BUILTIN.items() for name in found if (kind, name) not in tried
    ]
    assert not missing, f"add a Case for {missing}"


def test_every_kind_has_a_kit() -> None:
    assert set(KITS) == set(BUILTIN)
    assert all(kit.kind == kind for kind, kit in KITS.items())
