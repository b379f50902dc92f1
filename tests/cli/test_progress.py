"""What a person sees of a run's events."""

import io
import os
import sys

from lapflow.cli.progress import watcher


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bad_images_are_told_in_one_line_whatever_their_names(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    names = ["a[b]/[?x].png", "two\nlines.png", os.fsdecode(b"\xff.png")]
    with watcher() as watch:
        watch({"event": "quarantined", "names": names, "total": 3})
    assert (
        "3 images cannot be read and are replaced; new: a[b]/[?x].png, two\\nlines.png, \\udcff.png\n"
        in screen.getvalue()
    )
