"""Pictures while the ODE is solved: the same as `lapflow sample` draws, in order, and no more of them than
are needed."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lapflow.core.errors import SolverError
from lapflow.demo import painter
from lapflow.demo.draw_request import DrawRequest, resolve
from lapflow.demo.painter import NotWantedError, paint
from lapflow.sampling.pictures import tile, to_uint8
from lapflow.sampling.writing import STRIP_TIMES
from tests.demo.builders import capabilities, codec_pipeline


def pixels(url):
    assert url.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def drawn(made, monkeypatch=None, **draw_request):
    """The events of a drawing, and what `Pipeline.sample` says of the same."""
    told = []
    drawing = resolve(DrawRequest(**{"solver": "heun", "seed": 5, **draw_request}), made)
    paint(made, drawing, told.append, lambda: False)
    same = made.pipeline.sample(
        1,
        labels=drawing.condition.labels,
        solver=drawing.solver,
        guidance=drawing.guidance,
        seed=drawing.seed,
        trajectory=True,
    )
    return told, same


COMPOSITIONS = {
    "k1": (("lapflow-k1-digits",), {"class": "3", "guidance": 2.0, "steps": 5}),
    "k2": (("lapflow-digits",), {"class": "3", "guidance": 2.0, "steps": 5}),
    "k3, one step": (("lapflow-k3-digits",), {"class": "3", "steps": 1}),
    "k4": (("lapflow-k4-digits",), {"class": "3", "steps": 3}),
    "adaptive": (("lapflow-digits",), {"class": "3", "solver": "bosh3"}),
    "stochastic": (("lapflow-digits",), {"class": "3", "solver": "euler-maruyama", "steps": 4}),
    "wavelets": (("lapflow-wavelet-digits",), {"class": "3", "steps": 3}),
    "cascade": (("cascaded-digits",), {"class": "3", "steps": 3}),
    "pyramidal": (("pyramidal-flow-digits",), {"class": "3", "steps": 3}),
    "relay": (("relay-digits",), {"class": "3", "solver": "ddim", "steps": 3}),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_the_page_shows_what_sample_draws(name):
    arguments, draw_request = COMPOSITIONS[name]
    made = capabilities(*arguments)
    told, same = drawn(made, **draw_request)
    assert np.array_equal(pixels(told[-1]["picture"]), to_uint8(same.images)[0, ..., 0])
    assert told[-1]["evaluations"] == same.evaluations
    columns = [event for event in told if event["event"] == "column"]
    assert [event["index"] for event in columns] == list(range(len(STRIP_TIMES))), "each once, in order"
    for event, (t, images) in zip(columns, same.trajectory.images(STRIP_TIMES), strict=True):
        assert event["t"] == t
        assert list(event["pictures"]) == list(images)
        for row, url in event["pictures"].items():
            assert row in made.document()["rows"]
            assert np.array_equal(pixels(url), np.asarray(tile(images[row], 1)))


def test_colour_and_no_classes():
    made = capabilities("lapflow-digits", classes=(), shape=(3, 16, 16))
    told, same = drawn(made, steps=3)
    assert pixels(told[-1]["picture"]).shape == (16, 16, 3)
    assert np.array_equal(pixels(told[-1]["picture"]), to_uint8(same.images)[0])
    assert pixels(told[-2]["pictures"]["scale 0"]).shape == (16, 16, 3)


def test_latents_mature_and_the_picture_is_decoded(tmp_path):
    made = codec_pipeline(tmp_path)
    told, same = drawn(made, steps=3)
    assert pixels(told[-1]["picture"]).shape == (16, 16, 3)
    assert np.array_equal(pixels(told[-1]["picture"]), to_uint8(same.images)[0])
    assert pixels(told[-2]["pictures"]["scale 0"]).ndim == 2, "two channels of latents side by side, in grey"
    assert "latents" in " ".join(made.document()["facts"])


def test_columns_come_while_the_ode_is_solved():
    made, told, evaluated = capabilities(), [], []
    model = made.pipeline.model
    handle = model.register_forward_hook(
        lambda *_: evaluated.append(sum(e["event"] == "column" for e in told))
    )
    paint(
        made,
        resolve(DrawRequest(**{"class": "3"}, solver="euler", steps=20, seed=0), made),
        told.append,
        lambda: False,
    )
    handle.remove()
    assert len(evaluated) == 40
    assert evaluated[0] == 0
    assert [evaluated[i] for i in (10, 20, 30, 39)] == [2, 4, 6, 8]


def test_only_frames_that_may_still_be_shown_are_kept(monkeypatch):
    made, most = capabilities(), []
    column = painter._Watching._settled
    monkeypatch.setattr(
        painter._Watching,
        "_settled",
        lambda self, *a: most.append(len(self.trajectory.frames)) or column(self, *a),
    )
    paint(
        made,
        resolve(DrawRequest(**{"class": "3"}, solver="euler", steps=100, seed=0), made),
        lambda event: None,
        lambda: False,
    )
    assert max(most) < 30, "of 202"


def test_pictures_of_the_state_do_not_come_faster_than_the_eye(monkeypatch):
    made = capabilities()
    steps = {}
    for between in (0.0, 1000.0):
        monkeypatch.setattr(painter, "SECONDS_BETWEEN", between)
        told = []
        paint(
            made,
            resolve(DrawRequest(**{"class": "3"}, solver="euler", steps=10, seed=0), made),
            told.append,
            lambda: False,
        )
        steps[between] = [event for event in told if event["event"] == "step"]
    assert len(steps[0.0]) == 22, "the beginning and ten steps of each segment"
    assert [event["scale"] for event in steps[0.0]] == ["scale 1"] * 11 + ["scale 0"] * 11
    assert len(steps[1000.0]) == 1


def test_large_pictures_are_made_smaller_on_the_way(monkeypatch):
    monkeypatch.setattr(painter, "STRIP_SIDE", 4)
    told, _ = drawn(capabilities(), **{"class": "3", "steps": 2})
    assert pixels(told[-2]["pictures"]["scale 0"]).shape == (4, 4)
    assert pixels(told[-1]["picture"]).shape == (8, 8), "the sample never is"


@pytest.mark.parametrize("solver", ["rk4", "dopri5", "ddim", "euler-maruyama"])
def test_a_drawing_that_nobody_waits_for_ends_before_the_next_evaluation(solver):
    made, told, evaluated = capabilities(), [], []
    handle = made.pipeline.model.register_forward_hook(lambda *_: evaluated.append(1))
    with pytest.raises(NotWantedError):
        paint(
            made,
            resolve(DrawRequest(**{"class": "3"}, solver=solver, seed=0), made),
            told.append,
            lambda: len(evaluated) > 0,
        )
    handle.remove()
    assert len(evaluated) == 1
    assert "done" not in [event["event"] for event in told]
    assert not made.pipeline.model._forward_pre_hooks, "and nothing is left on the network"


def test_a_diverged_network_is_an_error_and_no_picture():
    made = capabilities()
    for parameter in made.pipeline.model.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises((SolverError, ValueError)):
        drawn(made, **{"class": "3", "steps": 2})
