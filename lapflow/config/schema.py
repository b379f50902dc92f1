"""The schema of a config: strict, every field described. Component fields take `{name: ..., **arguments}` or
a bare name."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from pydantic.annotated_handlers import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from lapflow.core.errors import ConfigError, LapflowError
from lapflow.plugins.registry import Spec, config_model, names, split_name

NotNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
TwoOrMore = Annotated[int, Field(ge=2)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Literal["constant", "cosine", "linear"]
Metric = Literal["frechet", "kid", "precision-recall", "copies"]


@dataclass(frozen=True)
class Named:
    """Marks a `Spec` field as a component of `kind`: {name: ..., **arguments} or a bare name, checked once,
    by the component's own schema."""

    kind: str

    def resolve(self, value: Any) -> Spec:
        """The component with its arguments checked and its defaults filled in."""
        if isinstance(value, Spec):
            return value
        name, arguments = split_name(self.kind, value)
        return Spec(self.kind, name, config_model(self.kind, name).model_validate(arguments))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.resolve, serialization=core_schema.plain_serializer_function_ser_schema(dict)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """One alternative per component that loads; a plugin that does not is left out with a warning."""
        alternatives: list[JsonSchemaValue] = []
        bare: list[str] = []
        for name in names(self.kind):
            try:
                arguments = config_model(self.kind, name).__pydantic_core_schema__
                found = handler.resolve_ref_schema(handler(arguments))
            except (LapflowError, pydantic.errors.PydanticUserError) as error:
                warnings.warn(f"left out of the schema: {str(error).splitlines()[0]}", stacklevel=2)
                continue
            properties = {"name": {"const": name}, **found.get("properties", {})}
            required = found.get("required", [])
            alternatives.append(
                {**found, "title": name, "properties": properties, "required": ["name", *required]}
            )
            if not required:
                bare.append(name)
        # A name may also be `name@distribution`, which no list of constants holds.
        return {"anyOf": [{"enum": bare}, {"type": "string", "pattern": "@"}, {"oneOf": alternatives}]}


def _field(default: Any, description: str, **bounds: Any) -> Any:
    """A field that need not be given."""
    return Field(default, description=description, **bounds)


def _component(name: str, description: str, **arguments: Any) -> Any:
    """A field for a component, with the one that stands there unless another is named."""
    return _field({"name": name, **arguments}, description)


class Section(BaseModel):
    """A strict mapping: unknown keys and wrong types are errors, and a bare component name in a default is
    resolved too."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, validate_default=True, validate_assignment=True
    )


class FlowConfig(Section):
    """The mathematics of the composition."""

    decomposition: Annotated[Spec, Named("decomposition")] = _component(
        "laplacian", "how an image splits into scales", levels=2
    )
    intervals: Annotated[Spec, Named("intervals")] = _component(
        "cumulative", "when each scale is active, and which times training draws"
    )
    path: Annotated[Spec, Named("path")] = _component("linear", "how data and noise mix along time")
    bridge: Annotated[Spec, Named("bridge")] = _component("append", "how a segment hands over to the next")
    noise: Annotated[Spec, Named("noise")] = _component("decomposed", "the law of the scales' noise")
    time_law: Annotated[Spec, Named("time_law")] = _component(
        "uniform", "how densely training visits the times of a segment"
    )
    coupling: Annotated[Spec, Named("coupling")] = _component(
        "independent", "which noise of a batch is paired with which data"
    )
    prediction: Annotated[Spec, Named("prediction")] = _component(
        "velocity", "what the network's main head stands for"
    )
    representation: Literal["bands", "merged"] = _field(
        "bands", "what the network sees: the bands, or the image that the active bands make"
    )


class SamplingConfig(Section):
    """How images are drawn unless the command says otherwise."""

    solver: Annotated[Spec, Named("solver")] = _component(
        "euler", "the method that integrates each segment", steps=20
    )
    guidance: Annotated[Spec, Named("guidance")] = _component(
        "cfg", "how conditional and unconditional predictions combine"
    )
    batch_size: Positive = _field(256, "images drawn at once")
    weights: Literal["ema", "raw"] = _field("ema", "averaged or raw weights")


class TrainingConfig(Section):
    """The training run."""

    steps: Positive = Field(description="optimizer steps")
    batch_size: Positive = _field(128, "images in a batch, over all processes")
    accumulation: Positive = _field(1, "batches whose gradients are added up for one optimizer step")
    learning_rate: float = _field(1e-4, "peak learning rate", gt=0)
    warmup_steps: NotNegative = _field(0, "steps of linear warm-up to the peak")
    decay: Decay = _field("constant", "how the learning rate goes down after the warm-up")
    final_learning_rate: Share = _field(0.0, "where the decay ends, as a fraction of the peak")
    optimizer: Annotated[Spec, Named("optimizer")] = _component("adamw", "the rule of an optimizer step")
    grad_clip_norm: Annotated[float, Field(gt=0)] | None = _field(
        None, "largest norm of the gradient; null: no clipping"
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = _field(
        0.9999, "decay of the weights' moving average; null: none is kept"
    )
    condition_dropout: Share = _field(
        0.1, "share of the samples whose condition is replaced by its null, for guidance"
    )
    flip: bool = _field(False, "mirror images at random")
    log_every: Positive = _field(50, "steps between log lines")
    checkpoint_every: Positive = _field(1000, "steps between checkpoints; the last step always saves one")
    keep_checkpoints: Positive = _field(2, "how many of the newest checkpoints stay")
    save_patience: float = _field(
        600.0, "seconds for which a checkpoint that the disk refuses is tried again before the run ends", ge=0
    )
    non_finite: Literal["stop", "skip"] = _field(
        "stop",
        "a step whose loss or gradient is not finite: stop the run before the update, or leave the step out",
    )
    max_skipped: Positive = _field(100, "steps that may be left out before the run stops")
    activation_checkpointing: bool = _field(
        False,
        "activation checkpointing: keep the inputs of each unit of the network alone, and compute its "
        "activations anew in the backward pass",
    )
    workers: NotNegative = _field(0, "processes that read images; 0: the training process itself")
    bad_images: Share = _field(
        0.01,
        "share of the training images that may be unreadable; each is replaced by another and "
        "listed in quarantine.jsonl (above 0 at least one may be; 0: the first stops the run)",
    )
    tensorboard: bool = _field(False, "write TensorBoard files too")


class KernelConfig(Section):
    """The subsets over which the kernel distance is averaged."""

    subsets: Positive = _field(100, "random subsets")
    subset_size: TwoOrMore = _field(1000, "features of either set in a subset")
    seed: NotNegative = _field(0, "a subset is a function of this and of its number")


class EvaluationConfig(Section):
    """How `lapflow evaluate` measures a run."""

    samples: TwoOrMore = _field(1000, "images drawn")
    metrics: list[Metric] = _field(
        ["frechet", "copies"],
        "what is measured: the Frechet distance (FID in Inception's features), the kernel "
        "distance (KID), precision and recall by nearest neighbours, copies of training images",
        min_length=1,
    )
    features: Annotated[Spec, Named("features")] = _component("pixels", "what images are compared in")
    classifier: Literal["svm"] | None = _field(
        None, "a classifier that judges conditional samples; null: none"
    )
    against: Literal["auto", "train", "test"] = _field(
        "auto",
        "the real images that samples are compared with; auto: the held-out ones, where there are two or "
        "more",
    )
    real_images: TwoOrMore = _field(50_000, "of each split at most so many are used, evenly spaced")
    reference: str | None = _field(
        None,
        "a file of what was measured of the real images: read if it is there, written if not; null: none",
    )
    kept: TwoOrMore = _field(
        10_000, "features of each set that are kept for the kernel distance and for precision and recall"
    )
    kid: KernelConfig = Field(default_factory=KernelConfig, description="the kernel distance")
    neighbours: Positive = _field(3, "precision and recall: the k of the k nearest neighbours")

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
        "pixels", "the space of the flow: pixels, or an autoencoder's latents"
    )
    data: Annotated[Spec, Named("dataset")] = Field(description="the images")
    conditioner: Annotated[Spec, Named("conditioner")] = _component(
        "classes", "what the network is told of a sample, out of what the data set says of it"
    )
    objective: Annotated[Spec, Named("objective")] = _component("mse", "what training minimises")
    attention: Annotated[Spec, Named("attention")] = _component("auto", "the attention kernel")
    engine: Annotated[Spec, Named("engine")] = _component(
        "torch", "how a training step runs on processes and devices"
    )
    sampling: SamplingConfig = Field(
        default_factory=SamplingConfig, description="solver, guidance and batch size of sampling"
    )
    training: TrainingConfig = Field(description="the training run")
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="how a run is measured"
    )
    seed: NotNegative = _field(
        0, "every random number of training is a function of this and of what is counted"
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


def _walk(
    model: type[BaseModel] = Config, at: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], FieldInfo, type[BaseModel] | None]]:
    """(path, field, the section that it is or None) of each field, sections before what they hold."""
    for name, field in model.model_fields.items():
        path, kind = (*at, name), field.annotation
        section = kind if inspect.isclass(kind) and issubclass(kind, BaseModel) else None
        yield path, field, section
        if section is not None:
            yield from _walk(section, path)


def component_kinds() -> dict[tuple[str, ...], str]:
    """{path of a component field: its kind} in the schema."""
    return {
        path: mark.kind for path, field, _ in _walk() for mark in field.metadata if isinstance(mark, Named)
    }


def component_defaults() -> dict[str, Any]:
    """The default components as a config's lowest layer, so that `solver: {steps: 5}` means the default
    solver."""
    found: dict[str, Any] = {}
    kinds = component_kinds()
    for path, field, _ in _walk():
        if path in kinds and isinstance(field.default, dict):
            inside = found
            for part in path[:-1]:
                inside = inside.setdefault(part, {})
            inside[path[-1]] = dict(field.default)
    return found


def section_at(path: tuple[str, ...]) -> tuple[tuple[str, ...], type[BaseModel]]:
    """The innermost section that the config path `path` lies in: (its own path, the section)."""
    sections = {(): Config} | {at: section for at, _, section in _walk() if section is not None}
    at = next(path[:length] for length in range(len(path), -1, -1) if path[:length] in sections)
    return at, sections[at]
