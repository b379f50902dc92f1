"""Evaluations of a run: every figure, what it states, reference files, code that a run names, and what is
refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.linalg import sqrtm

from lapflow.cli import main
from lapflow.config.loading import load_config
from lapflow.core.errors import BackendError, ConfigError, DataError, LapflowError, PluginError
from lapflow.data import Digits, load_split
from lapflow.evaluation import MEANINGS
from lapflow.evaluation import task as tasks
from lapflow.evaluation.real import RealImages
from lapflow.evaluation.run import evaluate_run, evaluation_config, summary
from lapflow.plugins import create
from lapflow.sampling.pipeline import Pipeline
from lapflow.training.loop import train
from lapflow.util.files import file_sha256
from tests.evaluation.conftest import TINY
from tests.support import small_inception

ALL = [
    "evaluation.metrics=[frechet,kid,precision-recall,copies]",
    "evaluation.kid={subsets: 10, subset_size: 30}",
]


def evaluate(run, out, *overrides, num=40, **options):
    pipeline = Pipeline.load(run)
    config = evaluation_config(pipeline.config, overrides)
    return evaluate_run(run, pipeline, num=num, evaluation=config.evaluation, out=out, **options)


def inception(tmp_path, **options):
    spec = {**small_inception(tmp_path / "inception.pt"), **options}
    return "evaluation.features={" + ", ".join(f"{key}: {value}" for key, value in spec.items()) + "}"


@pytest.fixture
def reading(monkeypatch):
    """Counts the images whose features are taken."""
    counts = []
    original = tasks.RealImages.block
    monkeypatch.setattr(
        tasks.RealImages, "block", lambda self, rows: counts.append(len(rows)) or original(self, rows)
    )
    return counts


class TestFigures:
    def test_every_figure_against_an_independent_computation(self, trained, tmp_path):
        """Features by the extractor, everything after it in numpy and scipy, float64."""
        from tests.evaluation.test_kernel_and_manifold import brute_inside, brute_mmd

        spec = inception(tmp_path)
        metrics = evaluate(
            trained,
            tmp_path,
            spec,
            "evaluation.metrics=[frechet,kid,precision-recall]",
            "evaluation.kid={subsets: 1, subset_size: 25}",
            "evaluation.kept=25",
            "evaluation.real_images=60",
            num=25,
        )
        pipeline = Pipeline.load(trained)
        extractor = create(
            "features",
            {
                "name": "inception",
                "path": str(tmp_path / "inception.pt"),
                "sha256": file_sha256(tmp_path / "inception.pt"),
            },
        )
        made = extractor(pipeline.sample(25).images).numpy()
        real = extractor(load_split(Digits(), "test", 60)[0]).numpy()
        training = extractor(load_split(Digits(), "train", 60)[0]).numpy()

        def frechet(a, b):
            first, second = np.cov(a.T), np.cov(b.T)
            return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(
                first + second - 2 * np.real(sqrtm(first @ second))
            )

        assert metrics["frechet"] == pytest.approx(frechet(made, real), rel=1e-6)
        assert metrics["frechet_real"] == pytest.approx(frechet(training, real), rel=1e-6)
        kept = real[[i * 60 // 25 for i in range(25)]]
        assert metrics["kid"] == pytest.approx(brute_mmd(made.tolist(), kept.tolist()), rel=1e-7, abs=1e-12)
        assert metrics["precision"] == brute_inside(made, kept, 3)
        assert metrics["recall"] == brute_inside(kept, made, 3)
        assert metrics["measured_in"]["kept"] == "25 and 25"
        assert "copies" not in metrics
        assert metrics["measured_in"]["extractor"] == extractor.sha256

    def test_every_figure_is_explained(self, trained, tmp_path):
        metrics = evaluate(trained, tmp_path, *ALL)
        flat = {
            name if not isinstance(value, dict) else f"{name}.{inner}"
            for name, value in metrics.items()
            for inner in (value if isinstance(value, dict) else [""])
        }
        assert flat == set(MEANINGS) - {"frechet_to_training", "data_changes"}
        assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
        told = summary(metrics)
        for words in (
            "kernel distance",
            "precision",
            "3 nearest",
            "in the features pixels",
            "copies of training",
        ):
            assert words in told

    def test_what_figures_state(self, trained, tmp_path):
        made = evaluate(
            trained, tmp_path, solver={"name": "dopri5", "rtol": 1e-2}, guidance=1.5, seed=3, batch_size=7
        )["made_with"]
        assert made["solver"] == "dopri5 rtol=0.01"
        assert made["tolerance"] == "rtol=0.01 atol=1e-05"
        assert made["evaluations"] > 10
        assert (made["guidance"], made["seed"], made["batch_size"], made["weights"]) == (
            "cfg scale=1.5",
            3,
            7,
            "ema",
        )
        assert made["ema_decay"] == load_config("lapflow-digits").training.ema_decay

    def test_against_the_training_images(self, trained, tmp_path):
        metrics = evaluate(
            trained, tmp_path, "evaluation.against=train", "evaluation.metrics=[frechet,kid]", ALL[1]
        )
        assert metrics["frechet_to_training"] > 0
        assert metrics["measured_in"]["against"] == "train"
        assert metrics["counts"]["train"] == 1438
        assert "frechet_ratio" not in metrics
        assert "Frechet distance to the training images" in summary(metrics)
        assert "no more samples than features (64)" in summary(metrics)

    def test_blocks_do_not_matter(self, trained, tmp_path):
        a, b = (evaluate(trained, tmp_path, *ALL, batch_size=size) for size in (7, 40))
        for name in ("frechet", "frechet_ratio", "kid", "precision", "recall", "agreement"):
            assert a[name] == pytest.approx(b[name], rel=1e-4)  # a network rounds by batch size
        assert a["frechet_real"] == b["frechet_real"]

    def test_a_set_without_classes_and_without_held_out_images(self, tmp_path):
        small = [
            "data={name: glyphs, size: 16, train: 30, test: 0}",
            "training.ema_decay=null",
            "sampling.weights=raw",
        ]
        run = train(load_config("lapflow-glyphs", [*TINY, *small]), tmp_path / "run")
        metrics = evaluate(run, run, num=8)
        assert metrics["frechet_to_training"] > 0
        assert metrics["made_with"]["ema_decay"] is None
        assert not (run / "evaluation").exists()


class TestReference:
    def test_it_is_written_once_and_used(self, trained, tmp_path, reading):
        file = tmp_path / "real.safetensors"
        arguments = [
            inception(tmp_path),
            *ALL[1:],
            f"evaluation.reference={file}",
            "evaluation.classifier=null",
        ]
        arguments.append("evaluation.metrics=[frechet,kid,precision-recall]")
        first = evaluate(trained, tmp_path, *arguments)
        assert sum(reading) == 1438 + 359
        again = evaluate(trained, tmp_path, *arguments)
        assert sum(reading) == 1438 + 359, "real images are not read again"
        assert again == first
        fewer = evaluate(trained, tmp_path, *arguments[:-1], "evaluation.metrics=[frechet]")
        assert fewer["frechet"] == first["frechet"], "a reference that holds more is good enough"
        assert set(load_file(file)) == {
            f"{split}/{name}" for split in ("train", "test") for name in ("mean", "scatter", "features")
        }

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (["evaluation.features={name: pixels, max_side: 4}"], "max_side"),
            (["data.held_out=0.3"], "data.train.size: 1438 -> "),
            (["evaluation.real_images=100"], "used: 359 -> 100"),
            (["evaluation.metrics=[frechet,kid]", "evaluation.kid.subset_size=10"], "kept: 0 -> 10000"),
        ],
    )
    def test_a_reference_of_something_else_is_refused(self, trained, tmp_path, change, words):
        file = f"evaluation.reference={tmp_path / 'real.safetensors'}"
        evaluate(trained, tmp_path, file, num=8)
        before = (tmp_path / "real.safetensors").read_bytes()
        pipeline = Pipeline.load(trained)
        config = load_config(pipeline.config.model_dump(mode="json"), [file, *change])
        pipeline = dataclasses.replace(pipeline, config=config, allow_changes=True)
        with pytest.raises(DataError, match="something else") as error:
            evaluate_run(trained, pipeline, num=12, evaluation=config.evaluation, out=tmp_path)
        assert words in str(error.value)
        assert len(str(error.value).splitlines()) <= 6
        assert (tmp_path / "real.safetensors").read_bytes() == before

    def test_a_damaged_or_foreign_file_is_refused(self, trained, tmp_path):
        path = tmp_path / "real.safetensors"
        file = f"evaluation.reference={path}"
        evaluate(trained, tmp_path, file, num=8)
        content = bytearray(path.read_bytes())
        content[-3] ^= 4
        for wrong in (bytes(content), bytes(content[:-50]), b"", b"{}"):
            path.write_bytes(wrong)
            with pytest.raises(DataError, match="reference cannot be read"):
                evaluate(trained, tmp_path, file, num=8)
        shutil.copy(next((trained / "checkpoints").glob("step-*/model.safetensors")), path)
        with pytest.raises(DataError, match="does not say what a reference says"):
            evaluate(trained, tmp_path, file, num=8)

    def test_data_are_known_by_what_they_are(self, tmp_path):
        from PIL import Image

        def folder(root, level=0):
            (root / "a").mkdir(parents=True)
            for i in range(6):
                Image.new("RGB", (8, 8), (40 * i + (level if i == 3 else 0),) * 3).save(
                    root / "a" / f"{i}.png"
                )
            return create("dataset", {"name": "folder", "root": str(root), "size": 8, "held_out": 0.0})

        one = RealImages(folder(tmp_path / "one"), "train", 6).fingerprint
        assert RealImages(folder(tmp_path / "moved"), "train", 6).fingerprint == one, "wherever they lie"
        assert RealImages(folder(tmp_path / "changed", level=9), "train", 6).fingerprint != one
        (tmp_path / "one" / "a" / "5.png").rename(tmp_path / "one" / "a" / "7.png")
        assert (
            RealImages(
                create("dataset", {"name": "folder", "root": str(tmp_path / "one"), "size": 8}), "train", 6
            ).fingerprint
            != one
        )


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A run whose config names a module, and the folder of the module, which marks when it is imported."""
    root = tmp_path_factory.mktemp("named")
    (root / "harm.py").write_text(
        f"open({str(root / 'imported')!r}, 'w')\n\n\ndef embed(x):\n    return x.flatten(1)\n"
    )
    spec = "evaluation.features={name: module, target: 'harm:embed'}"
    return train(load_config("lapflow-digits", [*TINY, spec]), root / "run"), root


class TestCodeThatARunNames:
    """A run, as a checkpoint that came from anybody, must not make an evaluation import or open anything that
    runs."""

    def test_it_is_refused_unless_a_person_says_it(self, named, monkeypatch, tmp_path, capsys):
        run, root = named
        monkeypatch.syspath_prepend(root)
        with pytest.raises(ConfigError, match="a run may come from anybody"):
            evaluate_run(run, Pipeline.load(run), num=4, out=tmp_path)
        for arguments in ([], ["evaluation.kept=5"], ["evaluation.features.batch_size=3"]):
            with pytest.raises(SystemExit) as end:
                main(["evaluate", str(run), *arguments, "--num", "4", "--out", str(tmp_path)])
            assert end.value.code == 2
            assert "Traceback" not in capsys.readouterr().err
        assert not (root / "imported").exists()
        metrics = evaluate(run, tmp_path, "evaluation.features={name: module, target: 'harm:embed'}", num=4)
        assert (root / "imported").exists()
        assert metrics["measured_in"]["features"].startswith("module target=harm:embed")
        assert evaluate(run, tmp_path, "evaluation.features=pixels", num=4)["measured_in"][
            "features"
        ].startswith("pixels")

    def test_an_inception_file_that_is_not_the_standard_one(self, tmp_path):
        spec = inception(tmp_path)
        run = train(load_config("lapflow-digits", [*TINY, spec]), tmp_path / "run")
        with pytest.raises(ConfigError, match="a run may come from anybody"):
            evaluate_run(run, Pipeline.load(run), num=4)
        assert evaluate(run, run, spec, num=4)["frechet"] > 0


class TestRefusals:
    @pytest.mark.parametrize(
        ("overrides", "num", "error", "words"),
        [
            (["evaluation.metrics=[kid]"], 40, DataError, r"subset_size 1000, 40 features[\s\S]*2 to 40"),
            (
                ["evaluation.metrics=[precision-recall]", "evaluation.neighbours=40"],
                40,
                DataError,
                "neighbours 40, 40 features",
            ),
            (
                ["evaluation.metrics=[kid]", "evaluation.kept=12", "evaluation.kid.subset_size=20"],
                40,
                DataError,
                "12 features",
            ),
            (["evaluation.features={name: inception, path: nowhere.pt}"], 4, BackendError, "nowhere.pt"),
            (
                ["evaluation.features={name: module, target: 'tests.support:GLYPHS'}"],
                4,
                PluginError,
                "something to call",
            ),
            (["evaluation.reference=nowhere/real.safetensors"], 4, ConfigError, "in a folder that is there"),
            (["evaluation.metrics=[frechet,frechet]"], 4, ConfigError, "named twice"),
            (["evaluation.metrics=[fid]"], 4, ConfigError, "frechet"),
            (["evaluation.metrics=[]"], 4, ConfigError, "metrics"),
            (["training.steps=3"], 4, ConfigError, "nothing of the run"),
        ],
    )
    def test_one_clear_error_before_any_sample(
        self, trained, tmp_path, monkeypatch, overrides, num, error, words
    ):
        monkeypatch.setattr(Pipeline, "draw", lambda *_, **__: pytest.fail("a sample was drawn"))
        with pytest.raises(error, match=words) as raised:
            evaluate(trained, tmp_path / "out", *overrides, num=num)
        assert isinstance(raised.value, LapflowError)
        assert not (tmp_path / "out").exists(), "nothing is written"

    def test_held_out_images_that_are_not_there(self, trained, tmp_path):
        pipeline = Pipeline.load(trained)
        config = load_config(
            pipeline.config.model_dump(mode="json"), ["data.held_out=0.0", "evaluation.against=test"]
        )
        pipeline = dataclasses.replace(pipeline, config=config, allow_changes=True)
        with pytest.raises(DataError, match="0 held-out images"):
            evaluate_run(trained, pipeline, num=4, out=tmp_path)

    def test_npz_where_nothing_can_be_written(self, trained, tmp_path):
        for file in (tmp_path, tmp_path / "nowhere" / "samples.npz"):
            with pytest.raises(ConfigError, match="cannot be written there"):
                evaluate(trained, tmp_path / "out", num=4, npz=file)

    def test_real_images_that_do_not_fit_in_memory(self, trained, tmp_path, monkeypatch):
        monkeypatch.setattr(tasks, "MAX_HELD", 1000)
        with pytest.raises(DataError, match=r"too many[\s\S]*evaluation.metrics=\[frechet\]"):
            evaluate(trained, tmp_path, num=4)
        without = ["evaluation.metrics=[frechet]", "evaluation.classifier=null"]
        assert evaluate(trained, tmp_path, *without, num=4)["frechet"] > 0

    def test_a_diverged_model(self, trained, tmp_path):
        pipeline = Pipeline.load(trained)
        for parameter in pipeline.model.parameters():
            parameter.fill_(float("nan"))
        with pytest.raises(LapflowError, match="not"):
            evaluate_run(trained, pipeline, num=4, evaluation=pipeline.config.evaluation, out=tmp_path)
        assert not (tmp_path / "metrics.json").exists()

    def test_an_extractor_that_gives_another_shape(self, trained, tmp_path, monkeypatch):
        monkeypatch.setattr("tests.support.mean_and_spread", lambda x: x.flatten(1)[1:])
        with pytest.raises(PluginError, match="one vector per image"):
            evaluate(
                trained,
                tmp_path,
                "evaluation.features={name: module, target: 'tests.support:mean_and_spread'}",
                num=4,
            )


def test_the_command_line(trained, tmp_path, capsys):
    arguments = [
        inception(tmp_path),
        *ALL,
        "--num",
        "40",
        "--npz",
        str(tmp_path / "s.npz"),
        "--out",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(trained), *arguments])
    assert not end.value.code
    out = capsys.readouterr().out
    assert "kernel distance" in out
    assert "without antialiasing" in out
    assert "s.npz" in out
    events = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [e["event"] for e in events if e["done"] == e["total"]] == [
        "real images (train)",
        "real images (test)",
        "sampling",
    ]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        ".evaluating",
        "metrics.json",
        "report.md",
    ]
    with pytest.raises(SystemExit):
        main(["sample", str(trained), "--num", "40", "--out", str(tmp_path / "samples")])
    ours, theirs = np.load(tmp_path / "s.npz"), np.load(tmp_path / "samples" / "samples.npz")
    assert np.array_equal(ours["arr_0"], theirs["arr_0"])
    assert np.array_equal(ours["arr_1"], theirs["arr_1"])
    assert torch.equal(torch.from_numpy(ours["arr_1"]), torch.arange(40) % 10)
