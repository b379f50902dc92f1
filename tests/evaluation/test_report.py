"""The report: readable, linked, never half written."""

import json

import numpy as np
import torch
from PIL import Image

from lapflow.evaluation import write_report


def test_report_and_metrics(tmp_path):
    strip = tmp_path / "run" / "my samples" / "strip.png"
    strip.parent.mkdir(parents=True)
    Image.new("L", (2, 2)).save(strip)
    metrics = {
        "frechet": 12.34567,
        "copies": {"copies": 0},
        "odd": float("nan"),
        "count": np.int64(3),
        "tensor": torch.tensor(0.5),
    }
    config = {"data": {"name": "digits"}, "levels": [1, 2]}
    path = write_report(tmp_path / "run" / "evaluation", metrics, config, {"Scales over time": strip})
    text = path.read_text()
    assert "| frechet | 12.35 |" in text
    assert "| copies: copies | 0 |" in text
    assert "![Scales over time](../my%20samples/strip.png)" in text
    assert "name: digits" in text
    stored = json.loads((path.parent / "metrics.json").read_text())
    assert stored == {"frechet": 12.34567, "copies": {"copies": 0}, "odd": None, "count": 3, "tensor": 0.5}
    assert sorted(p.name for p in path.parent.iterdir()) == ["metrics.json", "report.md"]
