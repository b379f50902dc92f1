"""The page in a real Chromium: what a person sees and does."""

from __future__ import annotations

import base64
import io
import os
import re
import shlex
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from lapflow.cli import main
from lapflow.demo import painter
from lapflow.demo.worker import Worker
from tests.demo.browser import MISSING, chromium, drawn, found, panel
from tests.demo.builders import ROOT, capabilities, codec_pipeline, command, server, trained, until

pytestmark = pytest.mark.xdist_group("browser")
LONG = {"Solver": "rk4", "Steps_segment": "500"}
TOLD = ("the server responded with a status of 400", "ERR_CONNECTION_REFUSED")
"""What Chromium logs of requests that fail, which the page itself tells in words."""


def told(text):
    return any(known in text for known in TOLD)


@pytest.fixture(scope="module")
def browser():
    if found() is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def url(tmp_path_factory, browser):
    with command(trained(tmp_path_factory.mktemp("page") / "my run")) as (_, address):
        yield address


@pytest.fixture
def visit(browser):
    """Opens an address in a page that fails the test for whatever goes wrong in it, or is fetched from
    elsewhere."""
    wrong, contexts = [], []

    def opened(address, **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options}))
        page = contexts[-1].new_page()
        origin = re.match(r"http://[^/]+/", address)[0]
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda said: wrong.append(said.text) if said.type == "error" and not told(said.text) else None,
        )
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((origin, "data:")) else wrong.append(asked.url),
        )
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def choose(found, **settings):
    for label, value in settings.items():
        field = found.get_by_label(label.replace("_", "/"), exact=True)
        field.select_option(value) if label in ("Class", "Solver") else field.fill(value)


def press(found, button):
    found.get_by_role("button", name=button, exact=True).click()


def shown(found):
    """The pixels of a panel's picture."""
    source = found.locator("img.sample").get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_it_draws_both_panels_at_once(visit, url):
    page = visit(url)
    for name in "AB":
        one = drawn(page, name)
        assert shown(one).shape == (8, 8)
        expect(one.locator(".note")).to_have_text(re.compile(r"^40 evaluations, \d+\.\d\d seconds$"))
        expect(one.locator("tbody tr").first.locator("img")).to_have_count(9)
        expect(one.locator("tbody tr").last.locator("img")).to_have_count(5)
        expect(one.locator("tbody tr").last.locator("span")).to_have_count(4)
        assert one.locator("tbody th").all_inner_texts() == ["scale 1", "scale 0"]
    assert panel(page, "A").get_by_label("Guidance").input_value() == "1"
    assert panel(page, "B").get_by_label("Guidance").input_value() == "2.5"
    expect(page.get_by_role("heading", level=1)).to_have_text("my run")
    expect(page.locator("#same")).to_contain_text("the same noise")
    first = [panel(page, name).locator("tbody img").first.get_attribute("src") for name in "AB"]
    assert first[0] == first[1], "the same noise, to the pixel"
    choose(panel(page, "B"), Seed="1")
    expect(page.locator("#same")).to_contain_text("different noise")
    expect(panel(page, "B").locator(".note")).to_contain_text("changed since")


@pytest.mark.parametrize(
    "settings",
    [
        {"Class": "7", "Guidance": "3.25", "Solver": "rk4", "Steps_segment": "3", "Seed": "11"},
        {"Class": "1", "Guidance": "", "Solver": "bosh3", "Seed": "4294967295"},
        {"Class": "4", "Guidance": "0", "Solver": "relay", "Steps_segment": "", "Seed": "2"},
    ],
    ids=lambda settings: settings["Solver"],
)
def test_the_copied_command_writes_the_same_picture(visit, url, tmp_path, settings):
    page = visit(url, permissions=["clipboard-read", "clipboard-write"])
    drawn(page, "B")
    one = panel(page, "A")
    choose(one, **settings)
    press(one, "Draw")
    expect(one.locator("code")).to_contain_text(f"--seed {settings['Seed']}")
    drawn(page, "A")
    press(one, "Copy command")
    expect(one.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    words = shlex.split(copied)
    assert words[:2] == ["lapflow", "sample"]
    assert one.locator("code").inner_text() == copied
    repeated = [*words[1:], "--out", str(tmp_path)]
    if settings["Solver"] == "rk4":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        subprocess.run(
            [sys.executable, "-m", "lapflow.cli", *repeated],
            env=environment,
            capture_output=True,
            timeout=120,
            check=True,
        )
    else:  # a process of its own takes seconds to begin
        with pytest.raises(SystemExit) as end:
            main(repeated)
        assert not end.value.code
    [file] = (tmp_path / "images").iterdir()
    assert file.name == f"00000-{settings['Class']}.png"
    assert np.array_equal(np.asarray(Image.open(file)), shown(one))


def test_scales_mature_while_the_ode_is_solved_and_it_can_be_stopped(visit, monkeypatch):
    """The network waits before each evaluation until the test lets it go on."""
    made, worker, go = capabilities(), Worker(), threading.Semaphore(0)
    monkeypatch.setattr(painter, "SECONDS_BETWEEN", 0.0)
    made.pipeline.model.register_forward_pre_hook(lambda *_: go.acquire(timeout=60) and None)
    with server(made, worker) as port:
        page = visit(
            f"http://127.0.0.1:{port}/#a.class=3&a.guidance=1&a.solver=euler&a.steps=8&a.seed=1&b.class=3&b.solver=euler&b.seed=1"
        )
        one, other = panel(page, "A"), panel(page, "B")
        coarse, fine = (
            one.locator("tbody tr").first.locator("img"),
            one.locator("tbody tr").last.locator("img"),
        )
        expect(other.get_by_role("status")).to_have_text("Waiting: 1 before this one")
        expect(coarse).to_have_count(0)
        for evaluations, columns in ((4, 2), (4, 4)):  # t = 1/4, 1/2: the last column may still change
            go.release(evaluations)
            expect(coarse).to_have_count(columns)
            expect(fine).to_have_count(0)
        expect(one.locator(".note")).to_have_text("t = 0.50, finest so far: scale 0")
        go.release(2)
        expect(fine).to_have_count(1)
        expect(one.locator(".note")).to_have_text("t = 0.63, finest so far: scale 0")
        expect(one.get_by_role("status")).to_have_text("Drawing")
        expect(one.locator("code")).not_to_be_visible()
        press(one, "Stop")
        expect(one.get_by_role("status")).to_have_text("Stopped.")
        go.release(10_000)
        drawn(page, "B")
        press(one, "Draw")
        drawn(page, "A")
        expect(fine).to_have_count(5)


def test_a_closed_page_frees_the_sampler(visit):
    made, worker = capabilities(), Worker()
    made.pipeline.model.register_forward_pre_hook(lambda *_: time.sleep(0.01))
    with server(made, worker) as port:
        page = visit(
            f"http://127.0.0.1:{port}/#a.class=3&a.solver=rk4&a.steps=500&a.seed=1&b.class=3&b.solver=rk4&b.steps=500&b.seed=1"
        )
        expect(panel(page, "A").locator("tbody img").first).to_be_visible(timeout=10_000)
        expect(panel(page, "B").get_by_role("status")).to_have_text("Waiting: 1 before this one")
        page.close()
        assert until(lambda: worker.idle, 10), "of the two drawings, 80 seconds long"


def test_a_link_repeats_the_settings(visit, url):
    page = visit(url)
    drawn(page, "A")
    drawn(page, "B")
    one = panel(page, "B")
    choose(one, Class="5", Guidance="2", Solver="euler", Steps_segment="4", Seed="9")
    press(one, "Draw")
    expect(one.locator("code")).to_contain_text("--seed 9")
    again = visit(page.url)
    assert np.array_equal(shown(drawn(again, "B")), shown(one))
    assert drawn(again, "B").locator("code").inner_text() == one.locator("code").inner_text()
    assert again.url == page.url


def test_a_strange_link_does_no_harm(visit, url):
    page = visit(
        f"{url}#a.class=../../etc/passwd&a.solver=<b>x&a.steps=99999&a.seed=1&b.seed=nothing&b.class=3&c.class=3&__proto__.x=1"
    )
    expect(panel(page, "B").get_by_role("status")).to_contain_text("The seed is missing")
    expect(panel(page, "A").get_by_role("status")).to_contain_text("steps is not valid")
    assert panel(page, "A").get_by_label("Class").input_value() == "0"
    assert panel(page, "B").get_by_label("Seed").input_value() == ""


def test_what_is_wrong_stands_in_the_panel(visit, url):
    page = visit(url)
    drawn(page, "B")
    one = drawn(page, "A")
    for settings, said in (
        ({"Guidance": "99"}, "less than or equal to 20"),
        ({"Guidance": "1", "Seed": "-1"}, "greater than or equal to 0"),
        ({"Seed": "1.5"}, "integer"),
        ({"Seed": ""}, "The seed is missing"),
        ({"Seed": "1", "Steps_segment": "0"}, "steps"),
    ):
        choose(one, **settings)
        press(one, "Draw")
        expect(one.get_by_role("status")).to_contain_text(said)
        expect(one.locator("code")).not_to_be_visible()
    choose(one, Steps_segment="2")
    press(one, "Draw")
    drawn(page, "A")


def test_it_is_used_by_keyboard_alone(visit, url):
    page = visit(url)
    drawn(page, "A")
    drawn(page, "B")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Draw both")).to_be_focused()
    one = panel(page, "A")
    for label, key in (
        ("Class", "3"),
        ("Guidance", None),
        ("Solver", None),
        ("Steps/segment", None),
        ("Seed", "1"),
    ):
        page.keyboard.press("Tab")
        expect(one.get_by_label(label, exact=True)).to_be_focused()
        if key:
            page.keyboard.type(key)
    page.keyboard.press("Enter")
    expect(one.locator("code")).to_contain_text("--class 3")
    drawn(page, "A")
    for button in ("New", "Draw"):
        page.keyboard.press("Tab")
        expect(one.get_by_role("button", name=button, exact=True)).to_be_focused()


def test_steps_are_of_solvers_that_take_them(visit, url):
    one = panel(visit(url), "A")
    choose(one, Solver="dopri5")
    expect(one.get_by_label("Steps/segment")).to_be_disabled()
    choose(one, Solver="euler")
    expect(one.get_by_label("Steps/segment")).to_have_value("20")
    choose(one, Solver="heun")
    expect(one.get_by_label("Steps/segment")).to_have_value("10")


def test_it_fits_a_phone_and_the_dark(visit, url):
    boxes = {}
    for width in (390, 1280):
        page = visit(
            url, viewport={"width": width, "height": 844}, color_scheme="dark" if width == 390 else "light"
        )
        boxes[width] = [drawn(page, name).bounding_box() for name in "AB"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", ground))) < 64) == (width == 390)
        for button in page.get_by_role("button").all():
            text, box = button.inner_text(), button.bounding_box()
            assert button.evaluate("e => e.scrollWidth <= e.clientWidth"), f"{text} is cut off at {width}"
            assert box["x"] + box["width"] <= width
    a, b = boxes[390]
    assert b["y"] >= a["y"] + a["height"], "stacked"
    a, b = boxes[1280]
    assert a["y"] == b["y"], "side by side"
    assert a["y"] + a["height"] <= 844, "on one screen"


def test_no_classes_in_colour_latents(visit, tmp_path):
    with server(codec_pipeline(tmp_path), Worker()) as port:
        page = visit(f"http://127.0.0.1:{port}/")
        one = drawn(page, "A")
        assert not one.get_by_label("Class").is_visible()
        assert not one.get_by_label("Guidance").is_visible()
        assert shown(one).shape == (16, 16, 3)
        assert "--class" not in one.locator("code").inner_text()
        assert "--guidance" not in one.locator("code").inner_text()
        assert drawn(page, "B").get_by_label("Steps/segment").input_value() == "2", (
            "what B differs in where there is no guidance"
        )


def test_names_are_text(visit):
    nasty = ("<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "a b --seed 3")
    with server(capabilities("lapflow-k3-digits", classes=nasty), Worker()) as port:
        page = visit(f"http://127.0.0.1:{port}/")
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        one = drawn(page, "A")
        drawn(page, "B")
        for name in nasty:
            choose(one, Class=name)
            press(one, "Draw")
            expect(one.locator("code")).to_contain_text(shlex.quote(name))
            drawn(page, "A")


def test_a_server_that_went_away_is_said(visit):
    made = capabilities()
    with server(made, Worker()) as port:
        page = visit(f"http://127.0.0.1:{port}/")
        drawn(page, "B")
        one = drawn(page, "A")
        made.pipeline.model.register_forward_pre_hook(lambda *_: time.sleep(0.01))
        choose(one, **LONG)
        press(one, "Draw")
        expect(one.locator("tbody img").first).to_be_visible(timeout=10_000)
    expect(one.get_by_role("status")).to_have_text("The server was stopped.")
    press(panel(page, "B"), "Draw")
    expect(panel(page, "B").get_by_role("status")).to_contain_text("does not answer")
