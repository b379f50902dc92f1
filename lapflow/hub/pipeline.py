"""`LapFlowPipeline`: a trained composition with the interface of a diffusers pipeline. Samples are made by
lapflow's own sampler."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from lapflow.config.building import build_codec
from lapflow.core.codec import ModuleCodec
from lapflow.core.decomposition import require_images
from lapflow.core.errors import CheckpointError, ConfigError, suggest
from lapflow.core.guidance import Guidance
from lapflow.core.solver import Solver
from lapflow.core.state import map_state
from lapflow.flows.flow import Flow
from lapflow.hub import model as backbone_module
from lapflow.hub.arguments import (
    Labels,
    check_tensor_inputs,
    choose_generator,
    choose_labels,
    choose_solver,
    join_noise,
    split_noise,
)
from lapflow.hub.card import BACKBONE_MODULE, CODE, PIPELINE_MODULE, check_licence, code_file, model_card
from lapflow.hub.model import LapFlowModel, refuse_pickles
from lapflow.hub.needed import (
    AutoencoderKL,
    DiffusionPipeline,
    ImagePipelineOutput,
    MultiPipelineCallbacks,
    PipelineCallback,
    create_repo,
    snapshot_download,
    upload_folder,
)
from lapflow.hub.steps import LATENTS, Callback, Interrupted, StepEnd, planned_steps, unfinished
from lapflow.sampling.guidance import ClassifierFreeGuidance
from lapflow.sampling.loaded_run import (
    BACKBONE,
    BACKBONE_CLASS,
    INDEX,
    PIPELINE_CLASS,
    VAE,
    LoadedRun,
    is_exported,
    read_index,
    read_json,
    read_run,
)
from lapflow.sampling.pictures import from_pixels, to_uint8
from lapflow.sampling.pipeline import resolve_guidance
from lapflow.sampling.sampler import sample
from lapflow.util.files import ASIDE, replace_file
from lapflow.util.random import Generators, fresh_generator

OUTPUTS = ("pil", "np", "pt", "latent")
HOME = backbone_module.__name__
"""The module in which diffusers finds the backbone's class when it is not told to run a folder's code."""
FETCHED = ["*.json", "*.safetensors"]
"""What is fetched from the Hub: data, no code."""


class LapFlowPipeline(DiffusionPipeline):
    """Draws images from a lapflow composition.

    Components: `backbone` (`LapFlowModel`) and, where the flow lives in latents, `vae` (a diffusers
    `AutoencoderKL`). `metrics` (what `lapflow evaluate` measured) and `license` are kept for the model card.
    Raises `ConfigError` for a `vae` that is not what the backbone's config says.
    """

    model_cpu_offload_seq = f"{BACKBONE}->{VAE}"
    _optional_components = [VAE]  # noqa: RUF012 (diffusers' name and form)
    _callback_tensor_inputs = [LATENTS]  # noqa: RUF012

    def __init__(
        self,
        backbone: LapFlowModel,
        # No default: diffusers would not see one that is passed to `from_pretrained`. Optional, and no
        # annotations as strings in this file: diffusers 0.35 reads them as they stand.
        vae: Optional[AutoencoderKL],  # noqa: UP045
        metrics: Optional[dict[str, Any]] = None,  # noqa: UP045
        license: Optional[str] = None,  # noqa: UP045
    ) -> None:
        super().__init__()
        self.codec = build_codec(backbone.loaded_run.config)
        self._set_module(vae)
        self.register_modules(backbone=backbone, vae=vae)
        self.register_to_config(metrics=metrics, license=check_licence(license))
        self._guidance_scale: float | Sequence[float] | None = None
        self._num_timesteps = 0
        self._interrupt = False

    # ------------------------------------------------------------------ what it is

    @property
    def loaded_run(self) -> LoadedRun:
        """The composition's config, shape and classes, and which weights these are."""
        return self.backbone.loaded_run

    @property
    def flow(self) -> Flow:
        return self.backbone.flow

    @property
    def labels(self) -> dict[str, int]:
        """{name of a class: its number}"""
        return {name: i for i, name in enumerate(self.loaded_run.class_names)}

    @property
    def guidance_scale(self) -> float | Sequence[float] | None:
        """What the running or last call was asked for; a callback may set `_guidance_scale`, which holds from
        the next step on. None: the config's guidance."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """The steps of the running or last call, over all segments."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the running call was asked to stop: set `_interrupt` in a callback. It ends after the
        present step, and returns what its state makes by then."""
        return self._interrupt

    # ------------------------------------------------------------------ sampling

    def prepare_latents(self, batch_size: int, generator: Generators | None = None) -> Tensor:
        """The noise of `batch_size` samples, white, of unit variance, as the argument `latents` takes it: [b,
        c, h, w] where a sample's noise is one white image, else [b, n] (see
        `lapflow.hub.arguments.join_noise`). A call draws exactly this."""
        generator = fresh_generator() if generator is None else choose_generator(generator, batch_size)
        shape, device = self.backbone.latent_shape, self._execution_device
        return join_noise(
            self.flow.draw_white(shape, batch_size, generator, dtype=self._state_dtype, device=device)
        )

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        num_images_per_label: int = 1,
        generator: Generators | None = None,
        latents: Tensor | None = None,
        solver: str | Mapping[str, Any] | Solver | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = (LATENTS,),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw images.

        Args:
            class_labels: a class or a list of classes, each a number or a name; None draws from the null
                class, or from a model without classes.
            num_inference_steps: steps over all segments together, shared out by the segments' lengths, at
                least one each. Default: the steps of the solver.
            guidance_scale: of classifier-free guidance; as in diffusers, one of at most 1 is off. A list
                gives one for each scale, coarse to fine. Default: the config's guidance; off without class
                labels.
            num_images_per_label: images of each label in turn; without labels, the number of images.
            generator: one for the batch, or a list with one per image: then an image depends on its own
                generator and not on the batch. Default: seeded by torch's global generator.
            latents: the noise, as `prepare_latents` gives it, in the place of drawing it.
            solver: a solver's name, {"name": ..., **arguments}, or a `Solver`. Default: the config's.
            output_type: "pil" for a list of pictures, "np" [b, h, w, c] and "pt" [b, c, h, w] in [0, 1] in
                float32, "latent" for the flow's own space.
            return_dict: an `ImagePipelineOutput` with `images`, or a tuple with them.
            callback_on_step_end: called as (pipe, step, t, tensors) after every step, with t the time
                reached, 0 noise and 1 data. What it returns as "latents" is gone on from.
            callback_on_step_end_tensor_inputs: the tensors that it wants: "latents", the image that the
                active scales make.

        Raises `ConfigError` for what cannot be done, before any work.
        """
        config, names, shape = self.loaded_run.config, self.loaded_run.class_names, self.backbone.latent_shape
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        check_tensor_inputs(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        self._check_output(output_type)
        labels, batch = choose_labels(config, names, class_labels, num_images_per_label)
        method = choose_solver(config, self.flow, self.backbone.heads, solver, num_inference_steps)
        self._guidance_scale, self._interrupt = guidance_scale, False
        self._num_timesteps = planned_steps(self.flow, method)
        guide = partial(self._guide, labels is not None)
        guidance = guide()
        generator = fresh_generator() if generator is None else choose_generator(generator, batch)
        latents = self.prepare_latents(batch, generator) if latents is None else latents
        device, dtype = self._execution_device, self._state_dtype
        white = split_noise(self.flow, shape, latents, batch)
        noise = self.flow.noise_from([map_state(lambda x: x.to(device, dtype), draws) for draws in white])

        with self.progress_bar(total=self._num_timesteps) as bar:
            inputs = callback_on_step_end_tensor_inputs
            after = StepEnd(self, self.flow, method, callback_on_step_end, inputs, bar.update, guide)
            try:
                made = sample(
                    self.flow,
                    self.backbone,
                    (batch, *shape),
                    condition=labels,
                    solver=method,
                    guidance=guidance,
                    generator=generator,
                    noise=noise,
                    observe=after.observer,
                    device=device,
                )
            except Interrupted as stop:
                made = unfinished(self.flow, stop.state, stop.segment, shape)
        self._num_timesteps = max(self._num_timesteps, after.done)
        images = made if output_type == "latent" else self._pictures(made, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @property
    def _state_dtype(self) -> torch.dtype:
        """The state is kept in float32 whatever the weights are in, float64 apart: rounding it at each step
        would be seen."""
        return torch.float64 if self.backbone.dtype == torch.float64 else torch.float32

    def _guide(self, labelled: bool) -> Guidance:
        """The guidance asked for. Raises `ConfigError` unless it fits the composition."""
        scale = self._guidance_scale
        if scale is None and not labelled:
            return ClassifierFreeGuidance()
        if scale is not None and not isinstance(scale, Sequence):
            scale = max(1.0, float(scale))
        return resolve_guidance(self.loaded_run.config, self.flow, bool(self.backbone.condition), scale)

    def _check_output(self, output_type: str) -> None:
        if output_type not in OUTPUTS:
            raise ConfigError(
                "unknown output_type", got=repr(output_type), expected=suggest(str(output_type), OUTPUTS)
            )
        if output_type != "pil":
            return
        require_images("output_type pil", len(self.loaded_run.shape) - 1)
        if self.loaded_run.shape[0] not in (1, 3):
            raise ConfigError(
                "only grey and colour images are pictures",
                got=f"{self.loaded_run.shape[0]} channels",
                expected="np or pt",
            )

    def _set_module(self, vae: Any) -> None:
        if vae is None:
            return
        if not isinstance(self.codec, ModuleCodec):
            raise ConfigError(
                f"{type(self.codec).__name__} works without a network",
                got=type(vae).__name__,
                expected="none",
            )
        self.codec.set_module(vae)

    def _pictures(self, latents: Tensor, output_type: str) -> Any:
        self._set_module(self.vae)  # it may have been replaced
        images = self.codec.decode(latents).float()
        if output_type == "pil":
            return [from_pixels(image) for image in to_uint8(images)]
        images = (images / 2 + 0.5).clamp(0, 1)
        return images if output_type == "pt" else np.ascontiguousarray(images.cpu().movedim(1, -1).numpy())

    # ------------------------------------------------------------------ to and from folders

    @classmethod
    def from_run(
        cls,
        run: str | PathLike[str],
        *,
        checkpoint: str | None = None,
        weights: str | None = None,
        attention: str | None = None,
        license: str | None = None,
    ) -> "LapFlowPipeline":
        """The pipeline of a run's newest checkpoint (or `checkpoint`, such as step-0001000), with averaged or
        raw weights (default: the config's). Its autoencoder, if it has one, is loaded; what `lapflow
        evaluate` measured of these very weights comes along.

        Raises `CheckpointError` for what is not a whole run, `BackendError` for an autoencoder that is not
        here.
        """
        loaded_run = read_run(Path(run), checkpoint=checkpoint, weights=weights, attention=attention)
        codec = build_codec(loaded_run.config)
        vae = codec.module if isinstance(codec, ModuleCodec) else None
        return cls(LapFlowModel.of(loaded_run), vae, measured(Path(run), loaded_run), license)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Any:
        """As in diffusers, of a folder or a repository of the Hub. None of its code is run or fetched, and no
        pickle is read."""
        refuse_pickles(kwargs.pop("use_safetensors", None), "use_safetensors")
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = _fetch(str(pretrained_model_name_or_path), kwargs)
        return super().from_pretrained(str(folder), use_safetensors=True, **kwargs)

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Any:
        """The folder's index, its classes being lapflow's own and not those that its code would give."""
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            _require_ours(folder)
        found = super().load_config(pretrained_model_name_or_path, **kwargs)
        index = found[0] if isinstance(found, tuple) else found
        index["_class_name"] = PIPELINE_CLASS
        index[BACKBONE] = [HOME, BACKBONE_CLASS]
        return found

    def to_json_string(self) -> str:
        """The index as it is saved: each class beside the file that gives it, so that plain diffusers finds
        them on the Hub too."""
        index = json.loads(super().to_json_string())
        index.pop("_name_or_path", None)  # a place on this machine
        index = {key: value for key, value in index.items() if value is not None}
        index["_class_name"] = [PIPELINE_MODULE, PIPELINE_CLASS]
        index[BACKBONE] = [BACKBONE_MODULE, BACKBONE_CLASS]
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        *,
        name: str | None = None,
        repo_id: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        create_pr: bool = False,
        token: str | None = None,
    ) -> None:
        """Write the folder: weights in safetensors, configs, the small files of code, the model card; the
        index last.

        `name` is what the card calls the folder (default: its own path). With `push_to_hub` it is uploaded to
        `repo_id` (default: the folder's name), to which the arguments after it belong. Raises
        `CheckpointError` for a folder of something else.
        """
        refuse_pickles(safe_serialization, "safe_serialization")
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise CheckpointError("the output folder is a file", got=str(folder), expected="a folder")
        if is_exported(folder):
            read_index(folder)  # it is ours
        repo = (repo_id or folder.absolute().name) if push_to_hub else None
        for file, given in CODE.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            replace_file(folder / file, code_file(given).encode())
        replace_file(folder / "README.md", self.card(name or repo or str(save_directory)).encode())
        super().save_pretrained(
            str(folder), safe_serialization=True, variant=variant, max_shard_size=max_shard_size
        )
        if repo is not None:
            _upload(folder, repo, commit_message, private, create_pr, token)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to a repository of the Hub, made if it is not there; the card
        there is replaced."""
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization, variant, name=repo_id)
            return _upload(Path(folder), repo_id, commit_message, private, create_pr, token)

    def card(self, name: str) -> str:
        """The model card, for a folder or repository called `name`."""
        parameters = sum(p.numel() for p in self.backbone.parameters())
        return model_card(self.loaded_run, name, parameters, self.config.metrics, self.config.license)


def export_run(
    run: Path,
    out: Path,
    *,
    checkpoint: str | None = None,
    weights: str | None = None,
    licence: str | None = None,
    name: str | None = None,
) -> LapFlowPipeline:
    """Write the pipeline of `run` (see `LapFlowPipeline.from_run`) to `out`, a new or empty folder: whole, or
    not there; returns the pipeline.

    `name` is what the model card calls the folder (default: `out`). It is written beside `out` and renamed.
    Raises `CheckpointError` for a folder that is in use or cannot be written, with nothing left there.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(
            "the output folder is in use",
            got=str(out),
            expected="a new or empty folder",
            remedy="choose another folder, or remove this one",
        )
    pipe = LapFlowPipeline.from_run(run, checkpoint=checkpoint, weights=weights, license=licence)
    aside = out.with_name(f"{ASIDE}{out.name}-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        pipe.save_pretrained(aside, name=name or str(out))
        aside.rename(out)
    except OSError as error:
        raise CheckpointError(
            f"the export could not be written: {error.strerror or error}",
            got=str(out),
            expected="a folder that can be written",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return pipe


def measured(run: Path, loaded_run: LoadedRun) -> dict[str, Any] | None:
    """The run's metrics.json, if it is of these weights at this step."""
    path = run / "metrics.json"
    if not path.is_file():
        return None
    metrics = read_json(path)
    made, these = metrics.get("made_with"), (loaded_run.step, loaded_run.weights)
    same = isinstance(made, dict) and (made.get("step"), made.get("weights")) == these
    return metrics if same else None


def _require_ours(folder: Path) -> None:
    if not is_exported(folder):
        run = (folder / "checkpoints").is_dir()
        raise CheckpointError(
            f"{folder} is not an exported pipeline",
            got=f"no {INDEX}",
            expected="a folder that `lapflow export` or LapFlowPipeline.save_pretrained wrote",
            remedy=f"LapFlowPipeline.from_run({str(folder)!r}) takes a run's folder" if run else None,
        )
    read_index(folder)


def _fetch(repo: str, kwargs: dict[str, Any]) -> Path:
    """A repository's data from the Hub, or from its cache; takes the arguments that say how out of
    `kwargs`."""
    known = ("revision", "token", "cache_dir", "force_download", "local_files_only")
    how = {key: kwargs.pop(key) for key in known if key in kwargs}
    try:
        return Path(snapshot_download(repo, allow_patterns=FETCHED, **how))
    except Exception as error:  # the Hub's own errors, those of the network, and of a name that is none
        raise CheckpointError(
            f"{repo} is no folder here, and cannot be fetched from the Hub",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            expected="a folder that `lapflow export` wrote, or the name of a repository with one",
        ) from error


def _upload(
    folder: Path, repo: str, message: str | None, private: bool | None, create_pr: bool, token: str | None
) -> str:
    repo = create_repo(repo, private=private, token=token, exist_ok=True).repo_id
    message = message or f"Upload {PIPELINE_CLASS}"
    return str(
        upload_folder(
            repo_id=repo, folder_path=folder, token=token, commit_message=message, create_pr=create_pr
        )
    )
