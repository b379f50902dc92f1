"""docs/performance.md says what benchmarks/results holds, and the benchmark that no machine at hand can run
is rehearsed."""

from pathlib import Path

from torch import nn

from benchmarks import gpu
from benchmarks.measure import RESULTS
from benchmarks.networks import ours
from benchmarks.report import PAGE, filled


class Peer(nn.Module):
    """Ours, called as rectified-flow-pytorch's network is: it is no dependency of the tests."""

    def __init__(self, side, levels, size="S"):
        super().__init__()
        self.network = ours(side, levels, size)

    def forward(self, images, t, labels):
        return list(
            self.network(dict(zip(self.network.transformer.inputs, images)), t, labels)["main"].values()
        )


def test_the_page_is_that_of_the_results():
    assert filled(PAGE.read_text()) == PAGE.read_text(), "run python -m benchmarks.report"


def test_a_result_that_is_not_there_is_said_to_be_missing():
    assert "Not measured: `python -m benchmarks.absent`." in filled("<!-- absent -->\nold\n<!-- end -->")


def test_every_benchmark_has_its_place():
    names = {p.stem for p in Path(PAGE.parent.parent / "benchmarks").glob("*.py")} - {
        "__init__",
        "captions",  # of a run that is named, as multistep; given prints one ratio
        "given",
        "measure",
        "multistep",
        "networks",
        "published",
        "report",
    }
    assert all(f"<!-- {name} -->" in PAGE.read_text() for name in names)


def test_the_benchmark_of_a_gpu_can_be_rehearsed_without_one(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "rectified_flow_pytorch", Peer)
    monkeypatch.setattr("sys.argv", ["gpu", "--dry-run"])
    before = {p: p.read_bytes() for p in RESULTS.iterdir()}
    gpu.main()
    said = capsys.readouterr().out
    assert said.count("training step") == said.count("evaluation, mean over t") == 4
    assert said.count("forward + backward") == 4
    assert "nothing was measured" in said
    assert {p: p.read_bytes() for p in RESULTS.iterdir()} == before
