"""The campaign of kills, shortened: at each third write point of a save and around every rename, and around
those of a run."""

from tests.stress.running import campaign


def test_no_kill_loses_a_checkpoint():
    code, output = campaign("kills", "--every", "3", "--only", "first", "later", "same")
    assert code == 0, output
    kills, old, new, failed = map(int, output.splitlines()[-1].split()[2:])
    assert kills == old + new >= 60
    assert old > 10 < new
    assert failed == 0


def test_a_killed_run_goes_on_to_the_same_end():
    code, output = campaign("kills", "--every", "1000", "--only", "run from")
    assert code == 0, output
    assert int(output.splitlines()[-1].split()[2]) >= 20


def test_a_save_that_is_not_safe_is_found_out():
    code, output = campaign("kills", "--saver", "naive", "--every", "8", "--only", "first")
    assert code == 1, output
    assert "FAILED: first save, killed at point" in output
