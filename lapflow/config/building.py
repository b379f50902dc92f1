"""From a checked config to the objects it names. A component's own errors gain the place in the config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lapflow.config.schema import Config
from lapflow.core.backbone import Backbone
from lapflow.core.codec import Codec
from lapflow.core.condition import Conditioner, Specs
from lapflow.core.dataset import SPLITS, Dataset
from lapflow.core.engine import Engine
from lapflow.core.errors import ConfigError, DataError, LapflowError
from lapflow.core.features import FeatureExtractor
from lapflow.core.field import TimeGrid
from lapflow.core.guidance import Guidance
from lapflow.core.intervals import Segment
from lapflow.core.objective import Objective
from lapflow.core.optimizer import Optimizer
from lapflow.core.solver import Solver
from lapflow.core.state import Shape, State
from lapflow.data.loader import indices
from lapflow.data.quarantine import read_or_substitute
from lapflow.flows.compose import compose
from lapflow.flows.flow import Flow
from lapflow.plugins.registry import create
from lapflow.util.autocast import autocast_dtype
from lapflow.util.digest import difference, tensors_sha256
from lapflow.util.random import Generators, keyed_generator


@dataclass
class Composition:
    """Everything a config names that training needs. `engine`, `solver` and `guidance` are made when first
    asked for."""

    config: Config
    flow: Flow
    dataset: Dataset
    codec: Codec
    conditioner: Conditioner
    model: Backbone
    objective: Objective

    @property
    def num_classes(self) -> int:
        """Classes of the data; 0 for an unconditional model."""
        return self.dataset.num_classes

    @property
    def shape(self) -> Shape:
        """(c, *sizes) of a sample in the flow's space."""
        return self.codec.latent_shape(self.dataset.shape)

    @cached_property
    def engine(self) -> Engine:
        return build_engine(self.config)

    @cached_property
    def solver(self) -> Solver:
        return build_solver(self.config)

    @cached_property
    def optimizer(self) -> Optimizer:
        return _create(self.config, "training", "optimizer")

    @cached_property
    def guidance(self) -> Guidance:
        return build_guidance(self.config)

    def build_objective(self) -> None:
        """Give the objective the flow, and make the weights of its own, if it has some. Their first values
        are a function of the config's seed alone."""
        with _placed(self.config, "objective"), _first_weights(self.config, "objective", torch.device("cpu")):
            self.objective.build(self.flow, self.flow.network_bands(self.shape), self.num_classes)
        for module in self.objective.frozen.values():
            if isinstance(module, nn.Module):
                module.eval().requires_grad_(False).to(self.engine.device)

    @cached_property
    def frozen(self) -> dict[str, str]:
        """The SHA-256 of each thing that the objective, once built, uses and does not train."""
        return {
            name: tensors_sha256(found.state_dict()) if isinstance(found, nn.Module) else found.sha256
            for name, found in self.objective.frozen.items()
        }

    def fit(self) -> None:
        """Let the network set what it takes from training data, before the first step of a run."""
        self.model.fit(self.examples)

    def examples(self, number: int) -> State:
        """The first `number` training samples of a run, or all if there are fewer, unmirrored, as the network
        sees them without noise: {scale of the representation: [n, c, *sizes]}, coarse to fine."""
        seed, size = self.config.seed, self.dataset.size("train")
        first = indices(seed, size, 0, min(number, size))
        samples = torch.stack([read_or_substitute(self.dataset, "train", index)[0].value for index in first])
        generators = [keyed_generator(seed, "sample", position) for position in range(len(first))]
        with torch.no_grad():
            bands = self.flow.decomposition.analyze(self.encode(samples, generators))
            seen: State = {}
            for segment in self.flow.segments:
                seen |= self.flow.to_image({k: bands[k] for k in segment.scales}, segment)
        return seen

    def encode(self, samples: Tensor, generator: Generators | None = None) -> Tensor:
        """What the data set gives, images or a codec's moments of them, [b, ...] -> the flow's space. Draws
        from `generator` what the codec draws."""
        if self.dataset.encoding is None:
            return self.codec.encode(samples, generator)
        return self.codec.latents(samples, generator)

    def require(self) -> None:
        """Raises what would otherwise go wrong in the middle of the work: no images, latents of another
        codec, sampling settings that do not fit the flow, a codec that cannot be loaded, nothing to
        recompute, a kernel that cannot run on the engine's device in its precision."""
        self._require_images()
        require_processes(self.config, self.flow, self.engine)
        require_sampling(self.config, self.solver, self.guidance, self.flow)
        with _placed(self.config, "codec"):
            self.codec.load()
            self._require_same_codec()
        self._require_heads()
        self._require_inputs()
        self._require_training()
        self.kernel()

    def kernel(self) -> str | None:
        """The attention kernel that training runs on. Raises `BackendError` if the config's cannot run."""
        with _placed(self.config, "attention"), self.engine.autocast():
            return self.model.require(self.engine.device, working_dtype(self.engine.device), needs_grad=True)

    def _require_heads(self) -> None:
        """Every head that the solver uses is there, and every head that is there is trained."""
        has, trained, used = self.model.heads, self.objective.heads, self.solver.heads
        parts = {"model": has, "objective": trained, "solver": used}
        for name in {*has, *trained, *used}:
            if name not in has or name not in trained:
                holds = [part for part, heads in parts.items() if name in heads]
                raise ConfigError(
                    f"the head {name!r} must be both returned by the model and trained by the objective",
                    got=f"it is a matter of the {' and the '.join(holds)} only",
                    expected="for a learned variance: model.learn_sigma=true and objective=vlb, with solver "
                    "ddpm, variance learned",
                )

    def _require_training(self) -> None:
        """The engine can step with the optimizer, and the network has the parts that are to be recomputed."""
        with _placed(self.config, "training", "optimizer"):
            if not self.optimizer.elementwise and self.engine.cuts_weights:
                raise ConfigError(
                    "this engine cuts weights into parts, and the optimizer needs whole ones",
                    got=f"{self.config.training.optimizer} with {self.config.engine}",
                    expected="an optimizer that updates every element for itself, such as adamw",
                    remedy="train with engine=torch and parallel: ddp, or with another optimizer",
                )
        with _placed(self.config, "training", "activation_checkpointing"):
            if self.config.training.activation_checkpointing and not self.model.units():
                raise ConfigError(
                    "the network names no units to recompute",
                    got=type(self.model).__name__,
                    expected="training.activation_checkpointing=false",
                )

    def _require_inputs(self) -> None:
        """The network takes the times that the schedule draws and the objective adds, and has its hidden
        states."""
        t = torch.zeros(1)
        times = {0: t} if self.flow.intervals.times_per_scale else t
        with _placed(self.config, "model"):
            self.model.require_inputs(times, t if self.objective.second_time else None, self.objective.hidden)

    def _require_images(self) -> None:
        if self.dataset.size("train") == 0:
            raise DataError(
                "there is no image to train on",
                got="an empty training split",
                where=self.config.origin("data"),
                expected="at least one image",
                remedy="hold fewer images out, or name another data set",
            )
        if self.config.training.flip:
            with _placed(self.config, "data"):
                self.dataset.require_mirrored()

    def _require_same_codec(self) -> None:
        """Latents are of use to the codec that made them, and to no other."""
        if (encoding := self.dataset.encoding) is None:
            return
        if changes := difference(encoding.codec, self.codec.identity()):
            raise ConfigError(
                "the latents were made by another codec",
                got=f"{self.config.codec}; from theirs to this: {'; '.join(changes)}",
                expected=f"the codec that made them: {dict(encoding.made_by)}",
                remedy="name that codec, or encode the images with this one",
            )

    def describe(self) -> dict[str, Any]:
        """What a run's first log line says of it."""
        judge = self.objective.module
        return {
            "parameters": sum(p.numel() for p in self.model.parameters()),
            **({} if judge is None else {"objective_parameters": sum(p.numel() for p in judge.parameters())}),
            "images": self.dataset.size("train"),
            "device": str(self.engine.device),
            "attention": self.kernel(),
        }


def require_sampling(config: Config, solver: Solver, guidance: Guidance, flow: Flow) -> None:
    """Raises `ConfigError` unless the settings of solver and guidance fit the flow."""
    with _placed(config, "sampling", "solver"):
        require_solver(flow, solver)
    with _placed(config, "sampling", "guidance"):
        guidance.require(flow.levels)


def require_processes(config: Config, flow: Flow, engine: Engine) -> None:
    """Raises `ConfigError` unless each process gets its share of a training batch, and what the engine needs
    to be alike in all of them is."""
    intervals, segments, processes = flow.intervals, len(flow.segments), engine.world_size
    batch = config.training.batch_size
    multiple = processes * (intervals.share_multiple(segments) if processes > 1 else 1)
    if batch % multiple:
        raise ConfigError(
            "the batch does not divide among the processes",
            got=f"training.batch_size {batch} on {processes} processes",
            expected=f"a multiple of {multiple}",
        )
    patience = config.training.save_patience
    if processes > 1 and patience >= engine.waits:
        raise ConfigError(
            "the other processes would not wait for a save that is tried again",
            got=f"training.save_patience {patience:g} s, engine.timeout {engine.waits:g} s",
            expected="a timeout well above the patience",
            remedy="raise engine.timeout, or lower training.save_patience",
        )
    if processes > 1 and segments > 1 and engine.same_segments and not intervals.common:
        raise ConfigError(
            "this engine needs every process to train the same segments in a step",
            got=f"{config.engine}, and a segment drawn for each sample",
            expected="draws that the processes share",
            remedy="set flow.intervals.segment_sampling=balanced (all segments in every batch) or batch (one "
            "segment a step)",
        )


class _Grid(TimeGrid):
    """The grid of a flow's segment, for a solver's plan."""

    def __init__(self, flow: Flow, segment: Segment) -> None:
        self.flow, self.segment, self.solve_t_max = flow, segment, flow.solve_t_max(segment)

    def grid(self, steps: int) -> list[float]:
        return self.flow.path.grid(self.segment, steps)


def require_solver(flow: Flow, solver: Solver) -> None:
    """Raises `ConfigError` unless the solver's settings fit the flow's segments and their path."""
    solver.require(len(flow.segments))
    for segment in flow.segments:
        solver.plan(_Grid(flow, segment), segment)


def working_dtype(device: torch.device) -> torch.dtype:
    """What a float32 network computes in under the present autocast."""
    return autocast_dtype(device) or torch.float32


def build(config: Config, device: torch.device | str = "cpu") -> Composition:
    """Flow (its law check included), data set, codec and model of a config; the model's parameters on
    `device`."""
    flow, dataset, codec = build_flow(config), build_dataset(config), build_codec(config)
    with _placed(config, "data"):
        shape = dataset.shape
    with _placed(config, "codec"):
        latent = codec.latent_shape(shape)
    conditioner = build_conditioner(config, dataset.class_names)
    return Composition(
        config,
        flow,
        dataset,
        codec,
        conditioner,
        build_model(config, flow, latent, conditioner.parts(), device),
        _create(config, "objective"),
    )


def build_flow(config: Config, *, check: bool = True) -> Flow:
    """The mathematics. `check` runs the law check, which raises `LawError`."""
    kinds = ("decomposition", "intervals", "path", "bridge", "prediction", "time_law", "coupling")
    parts = {kind: _create(config, "flow", kind) for kind in kinds}
    decomposition = parts["decomposition"]
    with _placed(config, "flow", "intervals"):
        parts["intervals"].segments(decomposition.levels)
    noise = _create(config, "flow", "noise", decomposition=decomposition)
    with _placed(config, "flow"):
        return compose(**parts, noise=noise, representation=config.flow.representation, check=check)


def build_model(
    config: Config, flow: Flow, shape: Shape, condition: Specs | int, device: torch.device | str = "cpu"
) -> Backbone:
    """The network for latents of `shape` (c, *sizes), with the parts of the condition that it embeds. Its
    first weights are a function of the config's seed alone.

    Device `meta` allocates nothing.
    """
    with _placed(config, "data"):
        bands = flow.network_bands(shape)
    attention = _create(config, "attention")
    with _first_weights(config, "model", torch.device(device)):
        return _create(config, "model", bands=bands, condition=condition, attention=attention)


@contextmanager
def _first_weights(config: Config, of: str, device: torch.device) -> Iterator[None]:
    """Where weights are made: on `device`, as a function of the config's seed and of whose they are."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(keyed_generator(config.seed, of).initial_seed())
        with device:
            yield


def build_codec(config: Config) -> Codec:
    return _create(config, "codec")


def build_dataset(config: Config) -> Dataset:
    return _create(config, "data")


def build_conditioner(config: Config, class_names: Sequence[str]) -> Conditioner:
    """The config's conditioner, for data of these classes."""
    return _create(config, "conditioner", class_names=tuple(class_names))


def build_images(dataset: Dataset) -> Dataset:
    """The images themselves: `dataset`, or the set that its moments were made of. Raises `DataError` where
    these are not here, or no longer those."""
    if dataset.encoding is None:
        return dataset
    images: Dataset = create("dataset", dataset.encoding.images)
    want = {split: dataset.size(split) for split in SPLITS}
    try:
        found = {split: images.size(split) for split in SPLITS}
    except LapflowError as error:
        raise DataError(
            "the images that the latents were made of are needed, and cannot be read",
            got=f"{dataset.encoding.images}: {error.what}",
            expected="the images where they were when they were encoded",
            remedy="bring them back, or leave a link there",
        ) from error
    if found != want:
        raise DataError(
            "the images are no longer those that the latents were made of",
            got=f"{found} images",
            expected=f"{want}",
        )
    return images


def build_engine(config: Config, device: str | None = None) -> Engine:
    """The engine, on another device if one is given."""
    if device is None:
        return _create(config, "engine")
    with _placed(config, "engine"):
        return create("engine", {**config.engine, "device": device})


def build_solver(config: Config) -> Solver:
    return _create(config, "sampling", "solver")


def build_guidance(config: Config) -> Guidance:
    return _create(config, "sampling", "guidance")


def build_features(config: Config, grey_levels: int, device: torch.device | str = "cpu") -> FeatureExtractor:
    """The feature extractor of the config's evaluation; nothing is loaded yet."""
    return _create(config, "evaluation", "features", grey_levels=grey_levels, device=device)


def _create(config: Config, *path: str, **context: Any) -> Any:
    """The component that the config names at `path`, in its `context`."""
    spec: Any = config
    for part in path:
        spec = getattr(spec, part)
    with _placed(config, *path):
        return spec.build(**context)


@contextmanager
def _placed(config: Config, *path: str) -> Iterator[None]:
    """Gives an error that has no place the one of the config's `path`."""
    try:
        yield
    except LapflowError as error:
        if error.where is None and (place := config.origin(*path)):
            error.where = f"{place} ({'.'.join(path)})"
        raise
