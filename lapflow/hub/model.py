"""A lapflow network as a model of diffusers: saved, loaded and moved like theirs, called as lapflow's sampler
calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from lapflow.config.building import build_codec, build_conditioner, build_flow, build_model
from lapflow.config.loading import resolved
from lapflow.core.condition import CLASS, Condition
from lapflow.core.errors import CheckpointError, ConfigError, LapflowError
from lapflow.core.state import Times
from lapflow.hub.needed import ConfigMixin, ModelMixin, register_to_config
from lapflow.sampling.loaded_run import SHARDS, LoadedRun, described


class LapFlowModel(ModelMixin, ConfigMixin):
    """The network of a lapflow composition, and in `flow` the composition's mathematics.

    Its config is lapflow's: `lapflow` is a whole resolved config, `shape` (c, *sizes) that of the images (not
    of their latents), `class_names` are in label order; `step` and `weights` (ema or raw) say what was
    exported. `attention` names a backend in the place of the config's; this is how it is chosen, and
    `set_attention_backend` refuses.

    `network` is the lapflow backbone, `loaded_run` says all of the above in lapflow's terms, and `forward` is
    `Backbone.forward`.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        lapflow: Mapping[str, Any],
        shape: list[int],
        class_names: list[str],
        step: int = 0,
        weights: str = "raw",
        attention: str | None = None,
    ) -> None:
        super().__init__()
        said = {
            "lapflow": lapflow,
            "shape": shape,
            "class_names": class_names,
            "step": step,
            "weights": weights,
        }
        self.loaded_run = described(said, Path("a LapFlowModel's config"), attention)
        config, dtype = self.loaded_run.config, torch.get_default_dtype()
        # the flow's checks and the network's tables are made in it, whatever dtype the weights are loaded in
        with _float32():
            self.flow = build_flow(config)
            self.latent_shape = build_codec(config).latent_shape(self.loaded_run.shape)
            parts = build_conditioner(config, self.loaded_run.class_names).parts()
            if other := [name for name in parts if name != CLASS]:
                raise ConfigError(
                    "diffusers' pipeline of lapflow takes classes only",
                    got=f"a run conditioned on {', '.join(other)}",
                    expected="lapflow.load(run).sample(...)",
                )
            self.network = build_model(config, self.flow, self.latent_shape, parts)
        if dtype != torch.float32:
            self.network.to(dtype)
        # All values are in the config: of those that were passed by position diffusers would believe that
        # they are defaults.
        self.register_to_config(**settings_of(self.loaded_run), attention=None, _use_default_values=[])

    @classmethod
    def of(cls, loaded_run: LoadedRun) -> LapFlowModel:
        """The model of trained weights, ready to evaluate. Raises `CheckpointError` if they do not fit their
        config."""
        model = cls(**settings_of(loaded_run))
        loaded_run.fill(model.network)
        return model.eval()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As in diffusers. Raises `CheckpointError` for a config that is not such a model's."""
        described({**config, **kwargs}, Path(str(config.get("_name_or_path", "the config"))))
        return super().from_config(config, *args, **kwargs)

    def forward(
        self,
        state: Mapping[int, Tensor],
        t: Times,
        condition: Condition | Tensor | None = None,
        **options: Any,
    ) -> Any:
        """state {k: [b, c_k, h_k, w_k]}, t [b], condition -> {"main": {k: [b, c_k, h_k, w_k]}}: see
        `Backbone.forward`."""
        return self.network(state, t, condition, **options)

    condition = property(attrgetter("network.condition"))
    """The parts of a condition that it embeds."""
    heads = property(attrgetter("network.heads"))
    """The heads beside `main`."""
    guided = property(attrgetter("network.guided"))
    """The heads that guidance combines."""
    mask = property(attrgetter("network.mask"))
    """Which scales the output of a scale depends on."""

    def prepare(self, condition: Condition) -> Condition:
        """The condition: classes are looked up in every evaluation."""
        return condition

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str] | None, **kwargs: Any) -> Any:
        """As in diffusers, from safetensors only. Raises `CheckpointError` for a folder that lacks something,
        and for weights that are not exactly the network's, of which diffusers only warns."""
        refuse_pickles(kwargs.pop("use_safetensors", None), "use_safetensors")
        wanted = kwargs.pop("output_loading_info", False)
        place = str(Path(str(pretrained_model_name_or_path)) / (kwargs.get("subfolder") or ""))
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, use_safetensors=True, output_loading_info=True, **kwargs
            )
        except (OSError, RuntimeError, ValueError) as error:
            known = isinstance(error, OSError) or any(words in str(error) for words in MISFIT)
            if isinstance(error, LapflowError) or not known:
                raise
            pickled = ", ".join(sorted(p.name for p in Path(place).glob("*.bin")))
            raise CheckpointError(
                "the backbone cannot be loaded",
                got=f"{place} holds {pickled}, which is a pickle" if pickled else f"{place}: {error}",
                expected="a backbone that lapflow exported, with its weights in safetensors",
            ) from error
        if wrong := {kind.replace("_", " "): sorted(info[kind]) for kind in WRONG if info.get(kind)}:
            listed = "; ".join(f"{kind} {', '.join(names[:3])}" for kind, names in wrong.items())
            raise CheckpointError("the weights do not fit the config beside them", got=f"{place}: {listed}")
        return (model, info) if wanted else model

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        is_main_process: bool = True,
        save_function: Callable[..., Any] | None = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As in diffusers, to safetensors only."""
        refuse_pickles(safe_serialization, "safe_serialization")
        if Path(save_directory).is_file():
            raise CheckpointError("the output folder is a file", got=str(save_directory), expected="a folder")
        # The index of an earlier save in several files would be believed before the one file of this.
        index = SHARDS if variant is None else SHARDS.replace(".json", f".{variant}.json")
        (Path(save_directory) / index).unlink(missing_ok=True)
        super().save_pretrained(
            save_directory,
            is_main_process=is_main_process,
            save_function=save_function,
            variant=variant,
            max_shard_size=max_shard_size,
            push_to_hub=push_to_hub,
            **kwargs,
        )

    def set_attention_backend(self, backend: str) -> NoReturn:
        """Raises `ConfigError`: diffusers' backends do not reach lapflow's attention."""
        raise ConfigError(
            "a lapflow backbone has lapflow's attention backends, chosen when it is loaded",
            got=f"set_attention_backend({backend!r})",
            expected="LapFlowModel.from_pretrained(folder, subfolder='backbone', attention='sdpa')",
        )


MISFIT = ("loading state_dict", "expected shape")
"""What diffusers' errors say, without and with accelerate, of weights of another shape."""
WRONG = ("missing_keys", "unexpected_keys")
"""What diffusers reports of weights that are not the model's."""


def settings_of(loaded_run: LoadedRun) -> dict[str, Any]:
    """The arguments of the `LapFlowModel` of trained weights, as JSON values."""
    return {
        "lapflow": resolved(loaded_run.config),
        "shape": list(loaded_run.shape),
        "class_names": list(loaded_run.class_names),
        "step": loaded_run.step,
        "weights": loaded_run.weights,
    }


def refuse_pickles(wanted: bool | None, name: str) -> None:
    """Raises `ConfigError` where a caller asks for weights that are not safetensors."""
    if wanted is not None and not wanted:
        raise ConfigError(
            "weights are saved and loaded as safetensors, never as pickles",
            got=f"{name}={wanted}",
            expected=f"{name}=True",
        )


@contextmanager
def _float32() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
