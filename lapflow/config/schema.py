"""The schema of a config: strict, every field described. Component fields take `{name: ..., **arguments}` or
a bare name."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from lapflow.config.fields import Named
from lapflow.core.errors import ConfigError
from lapflow.plugins.registry import Spec

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Literal["constant", "cosine", "linear"]
Metric = Literal["frechet", "kid", "precision-recall", "copies"]


def _component(default: dict[str, Any], description: str) -> Any:
    """A field for a component, with the one that stands there unless another is named."""
    return Field(default=default, description=description)


class Section(BaseModel):
    """A strict mapping: unknown keys and wrong types are errors, and a bare component name in a default is
    resolved too."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, validate_default=True, validate_assignment=True
    )


class FlowConfig(Section):
    """The mathematics of the composition."""

    decomposition: Annotated[Spec, Named("decomposition")] = _component(
        {"name": "laplacian", "levels": 2}, description="how an image splits into scales"
    )
    intervals: Annotated[Spec, Named("intervals")] = _component(
        {"name": "cumulative"},
        description="when each scale is active, and which times training draws",
    )
    path: Annotated[Spec, Named("path")] = _component(
        {"name": "linear"}, description="how data and noise mix along time"
    )
    bridge: Annotated[Spec, Named("bridge")] = _component(
        {"name": "append"}, description="how a segment hands over to the next"
    )
    noise: Annotated[Spec, Named("noise")] = _component(
        {"name": "decomposed"}, description="the law of the scales' noise"
    )
    time_law: Annotated[Spec, Named("time_law")] = _component(
        {"name": "uniform"}, description="how densely training visits the times of a segment"
    )
    coupling: Annotated[Spec, Named("coupling")] = _component(
        {"name": "independent"}, description="which noise of a batch is paired with which data"
    )
    prediction: Annotated[Spec, Named("prediction")] = _component(
        {"name": "velocity"}, description="what the network's main head stands for"
    )
    representation: Literal["bands", "merged"] = Field(
        default="bands",
        description="what the network sees: the bands, or the image that the active bands make",
    )


class SamplingConfig(Section):
    """How images are drawn unless the command says otherwise."""

    solver: Annotated[Spec, Named("solver")] = _component(
        {"name": "euler", "steps": 20}, description="the method that integrates each segment"
    )
    guidance: Annotated[Spec, Named("guidance")] = _component(
        {"name": "cfg"}, description="how conditional and unconditional predictions combine"
    )
    batch_size: Positive = Field(default=256, description="images drawn at once")
    weights: Literal["ema", "raw"] = Field(default="ema", description="averaged or raw weights")


class TrainingConfig(Section):
    """The training run."""

    steps: Positive = Field(description="optimizer steps")
    batch_size: Positive = Field(default=128, description="images in a batch, over all processes")
    accumulation: Positive = Field(
        default=1, description="batches whose gradients are added up for one optimizer step"
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="peak learning rate")
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear warm-up to the peak")
    decay: Decay = Field(default="constant", description="how the learning rate goes down after the warm-up")
    final_learning_rate: Share = Field(
        default=0.0, description="where the decay ends, as a fraction of the peak"
    )
    optimizer: Annotated[Spec, Named("optimizer")] = _component(
        {"name": "adamw"}, description="the rule of an optimizer step"
    )
    grad_clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="largest norm of the gradient; null: no clipping"
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=0.9999, description="decay of the weights' moving average; null: none is kept"
    )
    condition_dropout: Share = Field(
        default=0.1, description="share of the samples whose condition is replaced by its null, for guidance"
    )
    flip: bool = Field(default=False, description="mirror images at random")
    log_every: Positive = Field(default=50, description="steps between log lines")
    checkpoint_every: Positive = Field(
        default=1000, description="steps between checkpoints; the last step always saves one"
    )
    keep_checkpoints: Positive = Field(default=2, description="how many of the newest checkpoints stay")
    save_patience: float = Field(
        default=600.0,
        ge=0,
        description="seconds for which a checkpoint that the disk refuses is tried again before the run ends",
    )
    non_finite: Literal["stop", "skip"] = Field(
        default="stop",
        description="a step whose loss or gradient is not finite: stop the run before the update, or leave "
        "the step out",
    )
    max_skipped: Positive = Field(default=100, description="steps that may be left out before the run stops")
    activation_checkpointing: bool = Field(
        default=False,
        description="activation checkpointing: keep the inputs of each unit of the network alone, and "
        "compute its activations anew in the backward pass",
    )
    workers: int = Field(
        default=0, ge=0, description="processes that read images; 0: the training process itself"
    )
    bad_images: Share = Field(
        default=0.01,
        description="share of the training images that may be unreadable; each is replaced by another and "
        "listed in quarantine.jsonl "
        "(above 0 at least one may be; 0: the first stops the run)",
    )
    tensorboard: bool = Field(default=False, description="write TensorBoard files too")


class KernelConfig(Section):
    """The subsets over which the kernel distance is averaged."""

    subsets: Positive = Field(default=100, description="random subsets")
    subset_size: Annotated[int, Field(ge=2)] = Field(
        default=1000, description="features of either set in a subset"
    )
    seed: int = Field(default=0, ge=0, description="a subset is a function of this and of its number")


class EvaluationConfig(Section):
    """How `lapflow evaluate` measures a run."""

    samples: Annotated[int, Field(ge=2)] = Field(default=1000, description="images drawn")
    metrics: list[Metric] = Field(
        default=["frechet", "copies"],
        min_length=1,
        description="what is measured: the Frechet distance (FID in Inception's features), the kernel "
        "distance (KID), precision and "
        "recall by nearest neighbours, copies of training images",
    )
    features: Annotated[Spec, Named("features")] = _component(
        {"name": "pixels"}, description="what images are compared in"
    )
    classifier: Literal["svm"] | None = Field(
        default=None, description="a classifier that judges conditional samples; null: none"
    )
    against: Literal["auto", "train", "test"] = Field(
        default="auto",
        description="the real images that samples are compared with; auto: the held-out ones, where there "
        "are two or more",
    )
    real_images: Annotated[int, Field(ge=2)] = Field(
        default=50_000, description="of each split at most so many are used, evenly spaced"
    )
    reference: str | None = Field(
        default=None,
        description="a file of what was measured of the real images: read if it is there, written if not; "
        "null: none",
    )
    kept: Annotated[int, Field(ge=2)] = Field(
        default=10_000,
        description="features of each set that are kept for the kernel distance and for precision and recall",
    )
    kid: KernelConfig = Field(default_factory=KernelConfig, description="the kernel distance")
    neighbours: Positive = Field(
        default=3, description="precision and recall: the k of the k nearest neighbours"
    )

    @model_validator(mode="after")
    def _each_once(self) -> EvaluationConfig:
        if len(set(self.metrics)) < len(self.metrics):
            raise ConfigError(
                "a metric is named twice", got=f"evaluation.metrics: {self.metrics}", expected="each once"
            )
        return self


class Config(Section):
    """A whole experiment. `load_config` makes one from YAML; `resolved` gives it back with every default
    filled in."""

    flow: FlowConfig = Field(
        default_factory=FlowConfig, description="decomposition, intervals, path, bridge and noise"
    )
    model: Annotated[Spec, Named("backbone")] = Field(description="the network that predicts")
    codec: Annotated[Spec, Named("codec")] = _component(
        {"name": "pixels"}, description="the space of the flow: pixels, or an autoencoder's latents"
    )
    data: Annotated[Spec, Named("dataset")] = Field(description="the images")
    conditioner: Annotated[Spec, Named("conditioner")] = _component(
        {"name": "classes"},
        description="what the network is told of a sample, out of what the data set says of it",
    )
    objective: Annotated[Spec, Named("objective")] = _component(
        {"name": "mse"}, description="what training minimises"
    )
    attention: Annotated[Spec, Named("attention")] = _component(
        {"name": "auto"}, description="the attention kernel"
    )
    engine: Annotated[Spec, Named("engine")] = _component(
        {"name": "torch"}, description="how a training step runs on processes and devices"
    )
    sampling: SamplingConfig = Field(
        default_factory=SamplingConfig, description="solver, guidance and batch size of sampling"
    )
    training: TrainingConfig = Field(description="the training run")
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="how a run is measured"
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="every random number of training is a function of this and of what is counted",
    )

    _origins: dict[tuple[str, ...], str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _sampled_weights_exist(self) -> Config:
        if self.sampling.weights == "ema" and self.training.ema_decay is None:
            raise ConfigError(
                "sampling.weights asks for averaged weights, and training keeps none",
                got="sampling.weights: ema, training.ema_decay: null",
                remedy="set sampling.weights=raw, or give training.ema_decay a value",
            )
        return self

    def __eq__(self, other: object) -> bool:
        """Equal values, wherever they came from."""
        return isinstance(other, Config) and self.model_dump() == other.model_dump()

    def origin(self, *path: str) -> str | None:
        """File and line from which the value at `path` came, and the overrides of what it holds; None for a
        default."""
        within = {
            place
            for at, place in self._origins.items()
            if at[: len(path)] == path and place.startswith("command line")
        }
        own = next(
            (self._origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._origins), None
        )
        return "; ".join([*([own] if own and own not in within else []), *sorted(within)]) or None


def component_kinds(model: type[BaseModel] = Config, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """{path of a component field: its kind} in the schema."""
    found: dict[tuple[str, ...], str] = {}
    for name, section, kind in _fields(model):
        if kind is not None:
            found[(*at, name)] = kind
        elif section is not None:
            found |= component_kinds(section, (*at, name))
    return found


def component_defaults(model: type[BaseModel] = Config) -> dict[str, Any]:
    """The default components as a config's lowest layer, so that `solver: {steps: 5}` means the default
    solver."""
    found: dict[str, Any] = {}
    for name, section, kind in _fields(model):
        default = model.model_fields[name].default
        if kind is not None and isinstance(default, dict):
            found[name] = dict(default)
        elif section is not None and (inner := component_defaults(section)):
            found[name] = inner
    return found


def section_at(path: tuple[str | int, ...]) -> type[BaseModel]:
    """The section that the config path `path` lies in."""
    model: type[BaseModel] = Config
    for part in path:
        sections = {name: section for name, section, _ in _fields(model) if section is not None}
        if part not in sections:
            break
        model = sections[str(part)]
    return model


def _fields(model: type[BaseModel]) -> list[tuple[str, type[BaseModel] | None, str | None]]:
    """(name, nested section or None, component kind or None) of each field."""
    rows = []
    for name, field in model.model_fields.items():
        kind = next((mark.kind for mark in field.metadata if isinstance(mark, Named)), None)
        section = (
            field.annotation
            if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel)
            else None
        )
        rows.append((name, section, kind))
    return rows
