"""Moving digits and the electrocardiogram: their laws, stated apart; pictures, judging, a run of each."""

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from lapflow.cli import main
from lapflow.core.errors import ConfigError, DataError
from lapflow.data.digits import Digits
from lapflow.data.moving_digits import MovingDigits, reflect
from lapflow.data.series import ECG
from lapflow.sampling.pictures import animated_grid, encode, image_grid


def walk(start, speed, room, frames):
    """A ball between two walls, step by step; `start` is on the unfolded line of length 2 room."""
    place, way = (start, 1) if start <= room else (2 * room - start, -1)
    places = []
    for _ in range(frames):
        places.append(place)
        for _ in range(abs(speed)):
            step = way * (1 if speed > 0 else -1)
            if not 0 <= place + step <= room:
                way, step = -way, -step
            place += step
    return places


@pytest.mark.parametrize("speed", [-3, -1, 0, 1, 2, 5])
def test_reflection_is_a_ball_between_two_walls(speed):
    room = 7
    for start in range(2 * room):
        assert [reflect(start + speed * t, room) for t in range(20)] == walk(start, speed, room, 20)


def test_a_film_is_its_digit_at_its_places_and_a_pure_function():
    data = MovingDigits(films=20, seed=3)
    for index in range(5):
        film = data.read("train", index)
        again = MovingDigits(films=50, seed=3).read("train", index)
        assert torch.equal(film.value, again.value)
        chosen, places = data.motion("train", index)
        digit = Digits().read("train", chosen)
        assert film.annotations == digit.annotations
        for t, (top, left) in enumerate(places):
            frame = film.value[0, t]
            assert torch.equal(frame[top : top + 8, left : left + 8], digit.value[0])
            assert (frame == -1).sum() >= frame.numel() - 64
    assert not torch.equal(film.value, MovingDigits(films=20, seed=4).read("train", 4).value)


def test_places_and_speeds_on_a_grid():
    data = MovingDigits(films=200, speed=5, grid=4)
    moves = set()
    for index in range(200):
        _, places = data.motion("train", index)
        assert all(place in (0, 4, 8) for both in places for place in both)
        moves |= {abs(b[axis] - a[axis]) for a, b in itertools.pairwise(places) for axis in (0, 1)}
    assert moves == {4}
    with pytest.raises(ConfigError, match=r"grid 3[\s\S]*divides size - 8"):
        MovingDigits(grid=3)
    with pytest.raises(ConfigError, match=r"speed 2, grid 4"):
        MovingDigits(speed=2, grid=4)


@pytest.mark.parametrize(
    ("options", "seen"), [({}, 0.9), ({"speed": 4, "grid": 2}, 0.85), ({"speed": 4, "grid": 4}, 0.95)]
)
def test_real_films_are_judged_right_and_shuffled_ones_wrong(options, seen):
    data = MovingDigits(films=400, **options)
    read = [data.read("test", i) for i in range(100)]
    films = torch.stack([one.value for one in read])
    said = {"label": [one.annotations["label"] for one in read]}
    real = {name: x.mean().item() for name, x in data.judge(films, said).items()}
    assert set(real) == set(data.judgements)
    assert real["digit_seen"] > seen
    assert real["on_course"] == 1
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert data.judge(films[:, :, order], said)["on_course"].mean() < 0.2
    other = {"label": [(label + 1) % 10 for label in said["label"]]}
    assert data.judge(films, other)["digit_seen"].mean() < 0.1


def test_windows_of_the_series_do_not_cross_the_split():
    import pywt.data

    whole = pywt.data.ecg().astype(np.float64)
    scaled = 2 * (whole - whole.min()) / (whole.max() - whole.min()) - 1
    data = ECG(length=64)
    assert (data.size("train"), data.size("test")) == (705, 193)
    for split, first in (("train", 0), ("test", 768)):
        last = data.size(split) - 1
        for index in (0, last):
            want = scaled[first + index : first + index + 64]
            np.testing.assert_allclose(data.read(split, index).value[0].numpy(), want, atol=1e-6)
    with pytest.raises(DataError, match="no window 193"):
        data.read("test", 193)
    with pytest.raises(ConfigError, match="longer than the series"):
        ECG(length=2000).size("train")


def test_pictures_of_films_play_and_series_are_curves(tmp_path):
    film, series = MovingDigits(films=4).read("train", 0).value, ECG().read("train", 20).value
    (tmp_path / "film.png").write_bytes(encode(film))
    with Image.open(tmp_path / "film.png") as picture:
        assert (picture.n_frames, picture.size) == (8, (16, 16))
        for t in range(8):
            picture.seek(t)
            levels = torch.from_numpy(np.array(picture.convert("L"))).float() / 127.5 - 1
            assert (levels - film[0, t]).abs().max() <= 1 / 127
    (tmp_path / "grid.png").write_bytes(animated_grid(film.expand(3, -1, -1, -1, -1), 3))
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.n_frames == 8
    drawn = np.array(image_grid(series[None], 1).convert("L"))
    assert (drawn < 128).any(0).sum() > 64, "a line from one side to the other"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lapflow-ecg", "lapflow-moving-digits"])
def test_a_recipe_trains_samples_and_is_evaluated(recipe, tmp_path):
    small = ["model.depth=1", "model.width=24", "model.heads=2", "training.steps=2", "training.batch_size=4"]
    run = str(tmp_path / "run")
    for command in (
        ["train", recipe, *small, "training.warmup_steps=0", "--out", run],
        ["sample", run, "--num", "4", "--steps", "1"],
        ["evaluate", run, "--num", "8", "--steps", "1", "evaluation.real_images=40"],
    ):
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == 0, command
    assert (tmp_path / "run" / "samples" / "grid.png").is_file()
    assert (tmp_path / "run" / "samples" / "playing.png").is_file() == (recipe != "lapflow-ecg")
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert ("judged.on_course" in found) == (recipe != "lapflow-ecg")
