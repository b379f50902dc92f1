"""Whether scenes show what their captions say: `python -m benchmarks.captions RUN`.

A quarter holds a digit if it has ink; the digit is large if its ink is higher than a small digit can be;
which digit it is says a classifier of quarters of training scenes. A scene agrees if all that is read of it
is its caption, no more and no less. The rate of samples is to be compared with that of real held-out scenes,
which the same reader reads."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import lapflow
from lapflow.core.dataset import Split
from lapflow.data.captioned_digits import NUMBERS, PLACES, QUARTER, SMALL, CaptionedDigits
from lapflow.evaluation.agreement import svm_classifier

INK = 0.0
"""Grey level above which a pixel of a digit counts, half way from black to white."""


def quarters(scenes: Tensor) -> Tensor:
    """[n, 1, 16, 16] -> [n, 4, 1, 8, 8], in reading order."""
    rows = scenes.unfold(2, QUARTER, QUARTER).unfold(3, QUARTER, QUARTER)
    return rows.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)


def reader(dataset: CaptionedDigits, scenes: int = 2000) -> Callable[[Tensor], list[str]]:
    """What reads the captions of scenes [n, 1, 16, 16], its classifier trained on that many training
    scenes."""
    samples = [dataset.read("train", i) for i in range(min(scenes, dataset.size("train")))]
    seen = quarters(torch.stack([sample.value for sample in samples]))
    crops, labels = [], []
    for sample, parts in zip(samples, seen, strict=True):
        for claim in sample.annotations["caption"].split("; "):
            words, place = claim.split(", ")
            crops.append(parts[PLACES.index(place)])
            labels.append(NUMBERS.index(words.split()[2]))
    classify = svm_classifier(torch.stack(crops), torch.tensor(labels))

    def read(images: Tensor) -> list[str]:
        parts = quarters(images)
        inked = (parts > INK).any(-1)[:, :, 0]  # [n, 4, rows]
        found = classify(parts.flatten(0, 1)).reshape(len(images), 4).tolist()
        return ["; ".join(_claims(inked[i].sum(-1).tolist(), found[i])) for i in range(len(images))]

    return read


def _claims(heights: Sequence[int], numbers: Sequence[int]) -> list[str]:
    return [
        f"a {'large' if height > SMALL else 'small'} {NUMBERS[number]}, {place}"
        for height, number, place in zip(heights, numbers, PLACES, strict=True)
        if height
    ]


def agreement(read: Callable[[Tensor], list[str]], images: Tensor, captions: Sequence[str]) -> float:
    """The share of scenes that show their captions."""
    return sum(a == b for a, b in zip(read(images), captions, strict=True)) / len(images)


def real(dataset: CaptionedDigits, split: Split, count: int) -> tuple[Tensor, list[str]]:
    """The first scenes of a split and their captions."""
    samples = [dataset.read(split, i) for i in range(count)]
    return torch.stack([s.value for s in samples]), [s.annotations["caption"] for s in samples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pipeline = lapflow.load(options.run)
    dataset = pipeline.dataset
    assert isinstance(dataset, CaptionedDigits), "these captions are those of captioned-digits"
    read = reader(dataset)
    held_out, captions = real(dataset, "test", min(options.samples, dataset.size("test")))
    made = pipeline.sample(len(captions), captions=captions, seed=options.seed).images
    found = {"real": agreement(read, held_out, captions), "samples": agreement(read, made, captions)}
    print(json.dumps({**found, "ratio": found["samples"] / found["real"], "count": len(captions)}))


if __name__ == "__main__":
    main()
