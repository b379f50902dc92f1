"""Training runs: they learn, repeat, resume bit for bit, and refuse what they should."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters  # private: nothing public counts graphs

from lapflow.config.loading import load_config
from lapflow.core.errors import BackendError, CheckpointError, ConfigError, DataError
from lapflow.sampling.pipeline import Pipeline
from lapflow.training.checkpoint import latest_checkpoint
from lapflow.training.events import read_events
from lapflow.training.loop import TrainingError, train
from lapflow.training.run_folder import RunFolder
from lapflow.training.step import TrainingStep
from tests.training.runs import last, losses, same

TINY = [
    "model.width=32",
    "model.heads=2",
    "model.depth=2",
    "training.batch_size=16",
    "training.log_every=2",
    "training.warmup_steps=2",
]
GOLDEN = Path(__file__).with_name("golden.json")


def tiny(*overrides):
    return load_config(
        "lapflow-digits", [*TINY, "training.steps=12", "training.checkpoint_every=6", *overrides]
    )


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("flow.intervals.segment_sampling=sample",),
        ("training.accumulation=2",),
        ("training.workers=2", "training.flip=true"),
    ],
    ids=str,
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, options):
    class StoppedError(Exception):
        pass

    def stop(event):
        if event["event"] == "checkpoint" and event["step"] == 6:
            raise StoppedError

    whole = train(tiny(*options), tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(tiny(*options), tmp_path / "cut", stop)
    assert last(tmp_path / "cut").documents["state"]["step"] == 6
    train(tiny(*options), tmp_path / "cut")
    same(last(whole), last(tmp_path / "cut"))
    assert losses(whole)[3:] == losses(tmp_path / "cut")[3:]


def _train_slowly(out):
    torch.set_num_threads(1)
    train(tiny(), out, lambda event: time.sleep(0.05))


def test_a_killed_process_resumes_bit_for_bit(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_train_slowly, args=(tmp_path / "cut",))
    process.start()
    deadline = time.time() + 120
    while latest_checkpoint(tmp_path / "cut" / "checkpoints") is None and time.time() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    train(tiny(), tmp_path / "cut")
    same(last(train(tiny(), tmp_path / "whole")), last(tmp_path / "cut"))


@pytest.mark.parametrize("left", [".writing-environment.json-7", ".writing-config.yaml-7"])
def test_a_run_killed_while_it_writes_its_first_files_starts_again(tmp_path, left):
    (tmp_path / ".lock").touch()
    (tmp_path / left).write_text("half of")
    if "config" in left:
        (tmp_path / "environment.json").write_text("{}")
    assert last(train(tiny("training.steps=2"), tmp_path)).documents["state"]["step"] == 2
    assert not (tmp_path / left).exists()


def test_the_readers_of_a_killed_run_do_not_keep_its_folder(tmp_path):
    """Processes that read images live on for seconds, with whatever they inherited from the run."""
    folder, fork = RunFolder(tmp_path, tiny()), multiprocessing.get_context("fork")
    reads = fork.Event()
    reader = fork.Process(target=lambda: (reads.set(), time.sleep(600)))
    reader.start()
    try:
        assert reads.wait(60)
        folder.close()
        RunFolder(tmp_path, tiny()).close()
    finally:
        reader.kill()
        reader.join()


def test_a_finished_run_is_left_as_it_is(tmp_path):
    run = train(tiny(), tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (run / "checkpoints").rglob("*")}
    events = []
    train(tiny(), tmp_path, events.append)
    assert [e["event"] for e in events] == ["resume", "done"]
    assert before == {p: p.stat().st_mtime_ns for p in (run / "checkpoints").rglob("*")}


def test_accumulated_gradients_are_those_of_the_whole(tmp_path):
    """The mean over two halves is the gradient of the whole batch, up to the segments that the halves
    draw."""
    one = train(
        tiny(
            "training.accumulation=2",
            "training.batch_size=8",
            "training.steps=2",
            "flow.intervals={name: cumulative, starts: [0.0]}",
            "flow.decomposition={name: laplacian, levels: 1}",
            "model.patch=1",
        ),
        tmp_path / "a",
    )
    two = train(
        tiny(
            "training.steps=2",
            "flow.intervals={name: cumulative, starts: [0.0]}",
            "flow.decomposition={name: laplacian, levels: 1}",
            "model.patch=1",
        ),
        tmp_path / "b",
    )
    a, b = (last(run).tensors["model"] for run in (one, two))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-4, rtol=1e-3)


def test_recomputed_activations_change_nothing(tmp_path):
    whole = train(tiny("training.steps=4"), tmp_path / "whole")
    same(
        last(whole),
        last(train(tiny("training.steps=4", "training.activation_checkpointing=true"), tmp_path / "anew")),
    )


def test_balanced_draws_train_every_segment_in_every_step(tmp_path):
    run = train(
        tiny("training.steps=6", "training.log_every=1", "flow.intervals.segment_sampling=balanced"), tmp_path
    )
    rows = [e for e in read_events(run) if e["event"] == "train"]
    assert all({"loss/scale0", "loss/scale1"} <= set(row) for row in rows)


def test_settings_of_how_a_run_is_carried_out_may_change(tmp_path):
    """Engine, workers and the like are written down anew when the run goes on; what it trains may not
    change."""

    class CutError(Exception):
        pass

    def cut(event):
        if event["event"] == "checkpoint":
            raise CutError

    with pytest.raises(CutError):
        train(tiny(), tmp_path / "run", cut)
    changed = tiny(
        "training.workers=1",
        "training.activation_checkpointing=true",
        "engine.timeout=900",
        "sampling.batch_size=7",
    )
    same(last(train(changed, tmp_path / "run")), last(train(tiny(), tmp_path / "whole")))
    assert load_config(tmp_path / "run" / "config.yaml") == changed
    resume = next(e for e in read_events(tmp_path / "run") if e["event"] == "resume")
    assert {line.split(":")[0] for line in resume["changes"]} == {
        "training.workers",
        "training.activation_checkpointing",
        "engine.timeout",
        "sampling.batch_size",
    }


def test_a_finished_run_can_be_made_longer(tmp_path):
    """Where the learning rate is constant a short run is the beginning of a long one; fewer steps than were
    made are refused."""
    short, long = (
        tiny(f"training.steps={steps}", "training.warmup_steps=3", "training.decay=constant")
        for steps in (4, 7)
    )
    train(short, tmp_path / "run")
    same(last(train(long, tmp_path / "run")), last(train(long, tmp_path / "whole")))
    assert load_config(tmp_path / "run" / "config.yaml") == long
    assert Pipeline.load(tmp_path / "run").step == 7
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(
        CheckpointError,
        match=r"past its end[\s\S]*training\.steps 4, and a checkpoint of step 7[\s\S]*at least 7",
    ):
        train(short, tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_a_run_whose_learning_rate_decays_only_if_asked_for(tmp_path):
    train(tiny("training.steps=4", "training.decay=cosine"), tmp_path / "run")
    with pytest.raises(
        CheckpointError,
        match=r"training\.steps: 4 -> 7[\s\S]*to go on with these changes: --allow-changes",
    ):
        train(tiny("training.steps=7", "training.decay=cosine"), tmp_path / "run")


def test_one_fixed_batch_is_learnt(tmp_path):
    """With fixed images, noise and times the loss goes towards zero: the target is a function of what the
    network sees."""
    from lapflow.config.building import build

    parts = build(tiny("model.width=96", "model.heads=3", "flow.intervals.segment_sampling=batch"))
    x = torch.stack([parts.dataset.read("train", i).value for i in range(8)])
    labels = torch.tensor([parts.dataset.read("train", i).annotations["label"] for i in range(8)])
    optimizer = torch.optim.AdamW(parts.model.parameters(), lr=2e-3)
    points = [
        parts.flow.training_point(x, torch.Generator().manual_seed(s), condition=labels) for s in (0, 1, 2, 3)
    ]
    assert {p.segment.index for p in points} == {0, 1}
    history = []
    for _ in range(150):
        losses = [loss for p in points for loss in parts.objective(parts.model, p).values()]
        loss = sum(losses) / len(points)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.03 * history[0]


def test_the_golden_loss_curve_repeats(tmp_path):
    """A change in any draw, formula, order or default of the tiny recipe moves this curve; mend it knowingly,
    with `LAPFLOW_GOLDEN=write`. Rounding differs between processors, hence the tolerance."""
    curve = losses(train(tiny("training.steps=20"), tmp_path))
    if os.environ.get("LAPFLOW_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(curve, indent=1) + "\n")
    assert curve == pytest.approx(json.loads(GOLDEN.read_text()), rel=2e-3)


def test_bf16_training_follows_float32(tmp_path):
    plain = losses(train(tiny(), tmp_path / "a"))
    assert losses(train(tiny("engine.precision=bf16"), tmp_path / "b")) == pytest.approx(plain, rel=0.03)


@pytest.mark.slow
@pytest.mark.xdist_group("compiled")
def test_compiling_makes_one_graph_a_segment_and_the_next_run_finds_them(tmp_path):
    """Also where each sample draws its segment, so that every step has other numbers of them."""
    one = ("training.steps=4", "model.depth=1", "flow.intervals.segment_sampling=sample")
    plain = losses(train(tiny(*one), tmp_path / "plain"))
    for way in ("first", "again"):
        torch.compiler.reset()
        counters.clear()
        assert losses(train(tiny(*one, "engine.compile=true"), tmp_path / way)) == pytest.approx(
            plain, rel=1e-3
        )
        assert counters["stats"]["unique_graphs"] == 2
    assert counters["aot_autograd"]["autograd_cache_hit"] == 2


@pytest.mark.slow
@pytest.mark.xdist_group("compiled")
def test_compiled_training_in_units_that_are_recomputed_is_the_same(tmp_path):
    """FSDP2's units are compiled one by one; recomputation stands around them."""
    one = ("training.steps=4", "model.depth=1")
    plain = losses(train(tiny(*one), tmp_path / "a"))
    how = ("engine.compile=true", "engine.parallel=fsdp2", "training.activation_checkpointing=true")
    assert losses(train(tiny(*one, *how), tmp_path / "b")) == pytest.approx(plain, rel=1e-3)


def test_inactive_scales_see_a_zero_gradient(tmp_path):
    from lapflow.config.building import build

    parts = build(tiny("flow.intervals.segment_sampling=batch"))
    parts.build_objective()
    step_of = TrainingStep(parts.model, parts.objective)
    model = parts.engine.prepare(step_of, lambda p: torch.optim.AdamW(p.values(), lr=1e-3))
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    seeds = [
        next(
            s
            for s in range(50)
            if len(parts.flow.training_point(x, torch.Generator().manual_seed(s)).state) == n
        )
        for n in (2, 1)
    ]
    moved, take = [], parts.engine.optimizer.step

    def step():  # what the optimizer sees
        moved.append({n: p.grad.abs().max().item() for n, p in model.named_parameters()})
        take()

    parts.engine.optimizer.step = step
    for (
        seed
    ) in seeds:  # both scales, then the coarse one alone: the fine expert's last gradient must not come back
        generator = torch.Generator().manual_seed(seed)
        point = parts.flow.training_point(x, generator, condition=torch.arange(4))
        (named,) = model([point])
        parts.engine.backward(sum(named.values()))
        parts.engine.step(1e-3)
    silent = [n for n in moved[0] if moved[0][n] > 0 and moved[1][n] == 0]
    assert silent, "some parameters were trained with both scales and silent with one"
    assert {int(state["step"]) for state in parts.engine.optimizer.state.values()} == {2}


def test_a_run_folder_says_all_that_is_needed(tmp_path):
    run = train(tiny(), tmp_path / "run")
    assert {"config.yaml", "environment.json", "log.jsonl", "checkpoints"} <= {p.name for p in run.iterdir()}
    assert load_config(run / "config.yaml") == tiny()
    assert json.loads((run / "environment.json").read_text())["plugins"] == {}
    pipeline = Pipeline.load(run)
    assert (pipeline.step, pipeline.weights) == (12, "ema")
    raw = Pipeline.load(run, weights="raw", checkpoint="step-0000006")
    assert raw.step == 6
    assert pipeline.sample(3, seed=1).images.shape == (3, 1, 8, 8)


def test_a_sample_does_not_depend_on_its_batch(tmp_path):
    pipeline = Pipeline.load(train(tiny(), tmp_path / "run"))
    whole = pipeline.sample(6, seed=3, guidance=1.5).images
    parts = pipeline.sample(6, seed=3, guidance=1.5, batch_size=1).images
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=0)
    assert (whole[0] - whole[1]).abs().max() > 1e-3


class TestRefusals:
    def test_output_folder_in_use(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("mine")
        with pytest.raises(CheckpointError, match="in use"):
            train(tiny(), tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]

    def test_output_is_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(CheckpointError, match="is a file"):
            train(tiny(), tmp_path / "file")

    def test_two_runs_on_one_folder(self, tmp_path):
        def second(event):
            if event["event"] == "start":
                with pytest.raises(CheckpointError, match="another process"):
                    train(tiny(), tmp_path / "run")

        train(tiny(), tmp_path / "run", second)

    def test_another_config_says_what_differs(self, tmp_path):
        train(tiny(), tmp_path / "run")
        with pytest.raises(CheckpointError, match=r"training\.learning_rate: .* -> 0\.5"):
            train(tiny("training.learning_rate=0.5"), tmp_path / "run")

    def test_corrupt_checkpoint(self, tmp_path):
        run = train(tiny(), tmp_path / "run")
        file = latest_checkpoint(run / "checkpoints") / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
        for use in (lambda: Pipeline.load(run), lambda: train(tiny(), run)):
            with pytest.raises(CheckpointError, match=r"model\.safetensors"):
                use()

    def test_a_checkpoint_of_another_run(self, tmp_path):
        run = train(tiny("training.steps=6"), tmp_path / "run")
        other = train(tiny("training.steps=6", "seed=5", "flow.path=gvp"), tmp_path / "other")
        shutil.rmtree(run / "checkpoints")
        shutil.copytree(other / "checkpoints", run / "checkpoints")
        with pytest.raises(CheckpointError, match=r"of another run[\s\S]*flow\.path"):
            train(tiny("training.steps=6"), run)

    def test_data_whose_classes_changed(self, tmp_path, monkeypatch):
        from lapflow.data.digits import Digits

        run = train(tiny("training.steps=6"), tmp_path / "run")
        monkeypatch.setattr(Digits, "class_names", tuple("1023456789"))
        with pytest.raises(CheckpointError, match="classes"):
            train(tiny("training.steps=6"), run)

    def test_a_folder_with_somebody_s_own_config(self, tmp_path):
        (tmp_path / "config.yaml").write_text("base: lapflow-digits\n")
        with pytest.raises(CheckpointError, match="in use"):
            train(tiny(), tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]

    def test_guidance_without_a_trained_null_class(self, tmp_path):
        pipeline = Pipeline.load(
            train(tiny("training.steps=2", "training.condition_dropout=0.0"), tmp_path / "run")
        )
        with pytest.raises(ConfigError, match="null class"):
            pipeline.sample(2, guidance=2.0)

    def test_no_run_and_no_checkpoint(self, tmp_path):
        with pytest.raises(CheckpointError, match="not a run folder"):
            Pipeline.load(tmp_path / "nothing")

    def test_class_out_of_range(self, tmp_path):
        pipeline = Pipeline.load(train(tiny("training.steps=2"), tmp_path / "run"))
        assert pipeline.label("7") == 7
        with pytest.raises(ConfigError, match="class"):
            pipeline.label("11")
        with pytest.raises(ConfigError, match="classes 0 to 9"):
            pipeline.sample(2, labels=[0, 12])

    def test_a_backend_that_cannot_run_here(self, tmp_path):
        reason = "flash|CUDA|device"
        with pytest.raises(BackendError, match=reason):
            train(tiny("attention=flash"), tmp_path / "run")
        assert not (tmp_path / "run").exists(), "nothing is written before the check"
        with pytest.raises(BackendError, match="cuda"):
            train(tiny("engine.device=cuda:7"), tmp_path / "run")

    def test_missing_images(self, tmp_path):
        with pytest.raises(DataError, match="nowhere"):
            train(load_config("lapflow-folder", ["data.root=nowhere", "training.steps=1"]), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_diverged_run_stops_before_the_update(self, tmp_path):
        with pytest.raises(TrainingError, match="not finite"):
            train(
                tiny(
                    "training.learning_rate=1e30",
                    "training.grad_clip_norm=null",
                    "training.warmup_steps=0",
                    "training.checkpoint_every=1",
                ),
                tmp_path / "run",
            )
        assert (
            all(torch.isfinite(w).all() for w in last(tmp_path / "run").tensors["model"].values())
            if latest_checkpoint(tmp_path / "run" / "checkpoints")
            else True
        )
