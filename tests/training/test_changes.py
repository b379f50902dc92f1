"""A run that goes on with other settings, with its data elsewhere, or with other data."""

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Annotated

import pydantic
import pytest
from PIL import Image
from pydantic import BeforeValidator

from lapflow.cli import main
from lapflow.config.loading import load_config, resolved
from lapflow.core.dataset import absolute_path, path_arguments
from lapflow.core.errors import CheckpointError, ConfigError, DataError
from lapflow.data import ImageFolder
from lapflow.data.contents import contents_of, data_changes, write_contents
from lapflow.data.digits import Digits
from lapflow.sampling.pipeline import Pipeline
from lapflow.training.events import read_events
from lapflow.training.loop import train
from lapflow.training.run_folder import ALLOWED
from tests.backends.launching import torchrun
from tests.support import cached_glyphs, codec_of
from tests.training.runs import last, losses, same

TINY = [
    "model.width=16",
    "model.heads=1",
    "model.depth=1",
    "training.batch_size=8",
    "training.log_every=1",
    "training.checkpoint_every=2",
]
PICTURES = [
    *TINY,
    "data.size=8",
    "training.warmup_steps=0",
    "training.ema_decay=0.9",
    "evaluation.samples=4",
    "sampling.solver={name: euler, steps: 1}",
]


def tiny(*overrides, steps=4):
    return load_config("lapflow-digits", [*TINY, f"training.steps={steps}", *overrides])


def pictures(folder, number=6, size=8):
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            level = 20 * i + 100 * (name == "bee")
            Image.new("RGB", (size, size), (level, 40, 255 - level)).save(folder / name / f"{i}.png")
    return folder


def of_folder(*overrides, steps=2):
    return load_config("lapflow-folder", [*PICTURES, f"training.steps={steps}", *overrides])


@pytest.fixture
def call(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def noted(run):
    """What changes.jsonl says: [(step, lines)]."""
    rows = [json.loads(line) for line in (run / "changes.jsonl").read_text().splitlines()]
    return [(row["step"], row["changes"]) for row in rows]


def state_of(run):
    return {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


OTHER = {
    "training.learning_rate": 0.0005,
    "training.warmup_steps": 1,
    "training.decay": "linear",
    "training.final_learning_rate": 0.5,
    "training.batch_size": 4,
    "training.accumulation": 2,
    "training.grad_clip_norm": 0.25,
    "training.steps": 6,
}


def test_settings_of_training_change_if_asked_for_and_are_told(tmp_path):
    """All of them at once, and workers, which need not be asked for."""
    assert {name.removeprefix("training.") for name in OTHER} == set(ALLOWED)
    run = train(tiny(), tmp_path / "run")
    before = resolved(tiny())["training"]
    changed = tiny(*[f"{key}={value}" for key, value in OTHER.items()], "training.workers=1")
    files = state_of(run)
    with pytest.raises(CheckpointError, match=r"--allow-changes") as refused:
        train(changed, run)
    assert all(f"{key}: " in str(refused.value) for key in OTHER)
    assert state_of(run) == files
    train(changed, run, allow_changes=True)
    lines = {f"{k}: {before[k.removeprefix('training.')]!r} -> {v!r}" for k, v in OTHER.items()}
    lines.add("training.workers: 0 -> 1")
    events = read_events(run)
    resume = next(e for e in events if e["event"] == "resume")
    assert (resume["step"], set(resume["changes"])) == (4, lines)
    assert noted(run) == [(4, resume["changes"])]
    assert load_config(run / "config.yaml") == changed
    state = last(run).documents["state"]
    assert (state["step"], state["consumed"]) == (6, 4 * 8 + 2 * 4 * 2)
    rates = {e["step"]: e["learning_rate"] for e in events if e["event"] == "train"}
    assert rates[5] == pytest.approx(0.0005 * (0.5 + 0.5 * (1 - 3 / 5)))
    assert rates[6] == pytest.approx(0.0005 * (0.5 + 0.5 * (1 - 4 / 5)))
    assert Pipeline.load(run).step == 6
    again = []
    train(changed, run, again.append)  # the option is asked for once
    assert "changes" not in again[0]


def test_a_finished_run_with_a_decay_goes_on(tmp_path, call):
    command = ["train", "lapflow-digits", *TINY, "training.decay=cosine", "--out", tmp_path / "run"]
    assert call(*command, "training.steps=4")[0] == 0
    code, _, err = call(*command, "training.steps=6")
    assert code == 2
    assert "training.steps: 4 -> 6" in err
    assert "--allow-changes" in err
    assert call(*command, "training.steps=6", "--allow-changes")[0] == 0
    assert last(tmp_path / "run").documents["state"]["step"] == 6
    assert noted(tmp_path / "run") == [(4, ["training.steps: 4 -> 6"])]
    code, _, err = call(*command, "training.steps=5", "--allow-changes")
    assert code == 2
    assert "past its end" in err


def test_the_option_alone_changes_nothing(tmp_path):
    """With it, a run that is cut and goes on unchanged is the uninterrupted one bit for bit."""

    class CutError(Exception):
        pass

    def cut(event):
        if event["event"] == "checkpoint":
            raise CutError

    with pytest.raises(CutError):
        train(tiny(), tmp_path / "cut", cut, allow_changes=True)
    train(tiny(), tmp_path / "cut", allow_changes=True)
    same(last(train(tiny(), tmp_path / "whole")), last(tmp_path / "cut"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    assert not (tmp_path / "cut" / "changes.jsonl").exists()


def test_a_change_that_is_taken_back_leaves_nothing(tmp_path):
    """A rate that changes after two steps, and back before the next, is that of the unchanged run."""
    whole = train(tiny(), tmp_path / "whole")
    run = train(tiny(steps=2), tmp_path / "run")
    before = last(run)
    train(tiny("training.learning_rate=0.5", steps=2), run, allow_changes=True)
    same(before, last(run))
    train(tiny(), run, allow_changes=True)
    same(last(whole), last(run))


def test_a_change_that_was_not_saved_is_asked_for_again(tmp_path):
    """A kill after the change was written down and before the next checkpoint: the checkpoint is still one
    of the settings before."""
    run = train(tiny(steps=2), tmp_path / "run")

    class KilledError(Exception):
        pass

    def kill(event):
        if event["event"] == "resume":
            raise KilledError

    changed = tiny("training.learning_rate=0.0005", steps=3)
    with pytest.raises(KilledError):
        train(changed, run, kill, allow_changes=True)
    with pytest.raises(CheckpointError, match=r"learning_rate[\s\S]*--allow-changes"):
        train(changed, run)
    assert last(train(changed, run, allow_changes=True)).documents["state"]["step"] == 3
    assert len(noted(run)) == 1


@pytest.mark.parametrize(
    "override",
    [
        "model.width=32",
        "flow.path=gvp",
        "seed=3",
        "training.optimizer={name: adamw, weight_decay: 0.1}",
        "training.ema_decay=0.5",
    ],
)
def test_what_may_not_change_even_so(tmp_path_factory, override):
    run = tmp_path_factory.getbasetemp() / "refused"
    if not run.exists():
        train(tiny(steps=1), run)
    files = state_of(run)
    for changes in ((), ("training.learning_rate=0.5",)):
        with pytest.raises(CheckpointError) as refused:
            train(tiny(override, *changes, steps=1), run, allow_changes=True)
        assert f"{override.partition('=')[0]}" in str(refused.value)
        assert "training.learning_rate:" not in str(refused.value)
        assert state_of(run) == files
        with pytest.raises(CheckpointError) as refused:
            train(tiny(override, *changes, steps=1), run)
        assert "--allow-changes" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
def test_another_number_of_processes_and_engine_too(tmp_path):
    """Two processes go on under FSDP2 with another batch and rate, then one alone again."""
    options = ["training.batch_size=16", "training.accumulation=2", "training.learning_rate=0.0005"]
    draws = "flow.intervals.segment_sampling=balanced"
    run = train(tiny(draws, steps=2), tmp_path / "run")
    more = [*options, draws, "training.steps=4", "engine.parallel=fsdp2"]
    process = torchrun(
        "lapflow.cli", "train", "lapflow-digits", *TINY, *more, "--out", run, "--allow-changes"
    )
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    saved = last(run).documents["state"]
    assert (saved["step"], saved["consumed"]) == (4, 2 * 8 + 2 * 2 * 16)
    train(tiny(*options, draws, steps=5), run, allow_changes=True)
    assert last(run).documents["state"]["step"] == 5
    assert [step for step, _ in noted(run)] == [2, 4]


# ---------------------------------------------------------------------- where data lie


def test_a_folder_that_moved(tmp_path, call):
    """Training, evaluation and sampling go on where the pictures are now, without being asked twice."""
    old = pictures(tmp_path / "old")
    run = train(of_folder(f"data.root={old}"), tmp_path / "run")
    new = old.rename(tmp_path / "new")
    with pytest.raises(DataError, match=r"does not exist[\s\S]*data\.root"):
        train(of_folder(f"data.root={old}"), run)
    code, _, err = call("evaluate", run, "evaluation.metrics=[frechet]")
    assert code == 2
    assert f"{old}" in err
    assert "data.root" in err
    assert (
        call("evaluate", run, "evaluation.metrics=[frechet]", f"data.root={new}", "--out", tmp_path / "e")[0]
        == 0
    )
    assert call("sample", run, f"data.root={new}", "--num", 2, "--out", tmp_path / "s")[0] == 0
    train(of_folder(f"data.root={new}", steps=3), run)
    assert noted(run)[0][0] == 2
    assert f"data.root: '{old}' -> '{new}'" in noted(run)[0][1]
    assert Pipeline.load(run).dataset.size("train") == 12
    code, out, _ = call("evaluate", run, "evaluation.metrics=[frechet]", "--out", tmp_path / "e2")
    assert code == 0
    assert "not the data" not in out


def test_a_finished_run_knows_where_its_data_moved(tmp_path):
    """Without a step more, so that the checkpoint still names the old place."""
    old = pictures(tmp_path / "old")
    run = train(of_folder(f"data.root={old}"), tmp_path / "run")
    new = old.rename(tmp_path / "new")
    train(of_folder(f"data.root={new}"), run)
    assert Pipeline.load(run).config.data["root"] == str(new)
    assert Pipeline.load(run).dataset.size("train") == 12


def test_the_moved_run_is_the_unmoved_one_bit_for_bit(tmp_path):
    old = pictures(tmp_path / "old")
    whole = train(of_folder(f"data.root={old}", steps=4), tmp_path / "whole")
    run = train(of_folder(f"data.root={old}", "training.decay=constant"), tmp_path / "run")
    new = old.rename(tmp_path / "new")
    train(of_folder(f"data.root={new}", "training.decay=constant", steps=4), run)
    same(last(whole), last(run))


def test_latents_that_moved_and_that_were_made_anew(tmp_path):
    pytest.importorskip("diffusers")
    cache = cached_glyphs(tmp_path / "old", tmp_path / "autoencoder")

    def config(path, steps):
        spec = {"name": "latents", "path": str(path)}
        codec = codec_of(tmp_path / "autoencoder")
        options = ["training.batch_size=2", f"training.steps={steps}", "training.decay=constant"]
        base = resolved(load_config("lapflow-glyphs", [*TINY, *options]))
        return load_config({**base, "data": spec, "codec": codec})

    run = train(config(cache, 1), tmp_path / "run")
    new = cache.rename(tmp_path / "new")
    train(config(new, 2), run)
    assert last(run).documents["state"]["step"] == 2
    other = cached_glyphs(tmp_path / "other", tmp_path / "autoencoder", dtype="float16")
    with pytest.raises(DataError, match=r"4 changed in size \(train-00000"):
        train(config(other, 3), run)


def test_relative_paths_are_those_of_the_file_or_of_the_command(tmp_path, monkeypatch, call):
    pictures(tmp_path / "project" / "photos")
    pictures(tmp_path / "project" / "configs" / "near")
    (tmp_path / "project" / "configs" / "mine.yaml").write_text("base: lapflow-folder\ndata: {root: near}\n")
    (tmp_path / "project" / "configs" / "child.yaml").write_text("base: mine.yaml\ndata: {root: ../photos}\n")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("HOME", str(tmp_path))
    near, photos = tmp_path / "project" / "configs" / "near", tmp_path / "project" / "photos"
    for source, overrides, root in [
        ("configs/mine.yaml", [], near),
        ("configs/child.yaml", [], photos),
        ("configs/mine.yaml", ["data.root=photos"], photos),
        ("configs/mine.yaml", ["data.root=~/project/photos"], photos),
        ("configs/mine.yaml", [f"data.root={photos}"], photos),
        ({"base": "configs/mine.yaml", "data": {"root": "photos"}}, [], photos),
        ("lapflow-folder", ["data.root=photos"], photos),
        (Path("configs/mine.yaml").absolute(), [], near),
    ]:
        assert load_config(source, overrides).data["root"] == str(root)
    assert ImageFolder(root="photos").config["root"] == str(photos)
    with pytest.raises(ConfigError, match=r"root"):
        load_config("lapflow-folder", ["data.root=''"])
    options = [*PICTURES, "training.steps=1", "evaluation.metrics=[frechet]"]
    assert call("train", "lapflow-folder", "data.root=photos", *options, "--out", "run")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert call("evaluate", "../project/run")[0] == 0
    assert call("sample", "../project/run", "--num", 2)[0] == 0
    assert Pipeline.load("../project/run").dataset.size("train") == 12
    command = ["train", "../project/run/config.yaml", "training.steps=2", "--out", "../project/run"]
    assert call(*command)[0] == 0
    os.rename(tmp_path / "project", tmp_path / "moved")
    code, _, err = call("evaluate", "../moved/run", "data.root=../moved/photos", "--out", "e")
    assert code == 0, err


# ---------------------------------------------------------------------- other data


def spoil(folder):
    Image.new("RGB", (9, 9)).save(folder / "ant" / "new.png")
    (folder / "ant" / "0.png").unlink()
    (folder / "bee" / "1.png").unlink()
    with (folder / "bee" / "2.png").open("ab") as file:
        file.write(b"more")


TOLD = r"1 new \(ant/new\.png\), 2 missing \(ant/0\.png, bee/1\.png\), 1 changed in size \(bee/2\.png\)"


def test_other_data_are_told_and_asked_for(tmp_path, call):
    root = pictures(tmp_path / "photos")
    run = train(of_folder(f"data.root={root}"), tmp_path / "run")
    spoil(root)
    files = state_of(run)
    config = of_folder(f"data.root={root}", "training.decay=constant", steps=3)
    with pytest.raises(DataError, match=rf"{TOLD}[\s\S]*data\.json\.gz[\s\S]*--allow-changes"):
        train(config, run)
    measure = ["evaluate", run, "evaluation.metrics=[frechet]", "--out", tmp_path / "e"]
    for command in (measure, ["sample", run, f"data.root={root}", "--out", tmp_path / "s"]):
        code, _, err = call(*command)
        assert code == 2
        assert "2 missing" in err
        assert "--allow-changes" in err
    assert state_of(run) == files
    assert not (tmp_path / "e").exists()
    assert not (tmp_path / "s").exists()
    code, out, _ = call(*measure, "--allow-changes")
    assert code == 0
    assert "1 changed in size" in out
    assert "2 missing" in json.loads((tmp_path / "e" / "metrics.json").read_text())["data_changes"]
    assert (
        call("sample", run, f"data.root={root}", "--num", 2, "--out", tmp_path / "s", "--allow-changes")[0]
        == 0
    )
    train(config, run, allow_changes=True)
    (step, lines) = noted(run)[0]
    assert step == 2
    assert any(line.startswith("data: 1 new") for line in lines)
    assert next(e for e in read_events(run) if e["event"] == "resume")["changes"] == lines
    train(config, run)  # these are its data now
    assert call(*measure)[0] == 0


def test_other_data_elsewhere_are_not_the_moved_ones(tmp_path):
    run = train(of_folder(f"data.root={pictures(tmp_path / 'a')}"), tmp_path / "run")
    other = of_folder(f"data.root={pictures(tmp_path / 'b', number=7)}")
    with pytest.raises(DataError, match=r"2 new \(ant/6\.png, bee/6\.png\)"):
        train(other, run)
    with pytest.raises(DataError, match="2 new"):
        Pipeline.load(run, overrides=[f"data.root={tmp_path / 'b'}"])
    with pytest.raises(CheckpointError, match=r"data\.held_out"):
        train(of_folder(f"data.root={tmp_path / 'a'}", "data.held_out=0.5"), run, allow_changes=True)
    pictures(tmp_path / "b")
    (tmp_path / "b" / "cow").mkdir()
    shutil.copy(tmp_path / "b" / "ant" / "0.png", tmp_path / "b" / "cow")
    with pytest.raises(CheckpointError, match="classes"):
        train(other, run, allow_changes=True)


def test_only_where_data_lie_may_change_of_a_trained_run(tmp_path, call):
    run = train(of_folder(f"data.root={pictures(tmp_path / 'a')}", steps=1), tmp_path / "run")
    for override in ("data.size=16", "model.width=32", "data={name: digits}"):
        code, _, err = call("sample", run, override, "--num", 2)
        assert code == 2
        assert override in err
        assert "data.root=PATH" in err
        code, _, err = call("evaluate", run, override, "--num", 2)
        assert code == 2
        assert override in err
        assert "data.root=PATH" in err


def test_a_damaged_list_and_a_run_without_one(tmp_path):
    root = pictures(tmp_path / "photos")
    config = of_folder(f"data.root={root}", steps=1)
    run = train(config, tmp_path / "run")
    file = run / "data.json.gz"
    whole = file.read_bytes()
    assert json.loads(gzip.decompress(whole))["train"]["ant/0.png"] == (root / "ant" / "0.png").stat().st_size
    for data in (whole[:-9], b"", whole[:30] + bytes([whole[30] ^ 1]) + whole[31:]):
        file.write_bytes(data)
        for use in (lambda: train(config, run), lambda: Pipeline.load(run).dataset):
            with pytest.raises(CheckpointError, match=r"data\.json\.gz"):
                use()
    file.unlink()
    assert Pipeline.load(run).dataset.size("train") == 12
    train(config, run)
    assert file.read_bytes() == whole


def test_sets_without_files_are_known_by_names_or_their_size():
    """A set that names its samples, and one that numbers them."""

    class Named(Digits):
        def name(self, split, index):
            return f"digit {index} of {split}"

    size = Digits().size("train")
    assert contents_of(Digits())["train"] == {"train": size}
    named = contents_of(Named())["train"]
    assert (len(named), next(iter(named))) == (size, "digit 0 of train")


def test_paths_of_a_set_are_found_wherever_they_stand_in_an_annotation():
    Place = Annotated[str, BeforeValidator(absolute_path)]

    class Set(pydantic.BaseModel):
        one: Place
        other: Annotated[Place | None, pydantic.Field(description="or none")] = None
        several: list[Place] = []
        name: Annotated[str, pydantic.Field(min_length=1)] = "x"
        size: int = 3

    assert path_arguments(Set) == ["one", "other", "several"]
    assert Set(one="a", several=["b", Path("/c")]).several == [str(Path.cwd() / "b"), "/c"]


def test_names_of_any_kind(tmp_path):
    """Line breaks, undecodable bytes, links to nowhere; what is told is printable."""
    root = pictures(tmp_path / "photos", number=1)
    (root / "ant" / "a\nb.png").write_bytes(b"x")
    (root / "ant" / os.fsdecode(b"\xff.png")).write_bytes(b"xy")
    (root / "ant" / "link.png").symlink_to("nowhere")
    found = contents_of(ImageFolder(root=root))
    assert found["train"]["ant/link.png"] == -1
    write_contents(tmp_path / "data.json.gz", found)
    assert data_changes(tmp_path / "data.json.gz", found, False) == []
    (told,) = data_changes(tmp_path / "data.json.gz", {"train": {}, "test": {}}, True)
    assert told.startswith("5 missing (ant/0.png, ant/a\\nb.png, ")
    assert told.isprintable()
