"""docs/performance.md says what benchmarks/results holds."""

from pathlib import Path

from benchmarks.report import PAGE, filled


def test_the_page_is_that_of_the_results():
    assert filled(PAGE.read_text()) == PAGE.read_text(), "run python -m benchmarks.report"


def test_a_result_that_is_not_there_is_said_to_be_missing():
    assert "Not measured: `python -m benchmarks.absent`." in filled("<!-- absent -->\nold\n<!-- end -->")


def test_every_benchmark_has_its_place():
    names = {p.stem for p in Path(PAGE.parent.parent / "benchmarks").glob("*.py")} - {"__init__", "measure", "networks", "report"}
    assert all(f"<!-- {name} -->" in PAGE.read_text() for name in names)
