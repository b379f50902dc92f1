"""A convolutional U-Net with attention (Ho et al. 2020; Dhariwal & Nichol 2021), diffusers' UNet2DModel:
LDM's backbone.

One U-Net per scale, each seeing its own scale alone; so it is for one scale, or for the merged representation
of stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from lapflow.backends.attention import resolve
from lapflow.core.attention import AttentionBackend
from lapflow.core.backbone import VARIANCE, Backbone
from lapflow.core.condition import CLASS, Condition, Specs, num_classes, specs
from lapflow.core.decomposition import Band, require_images
from lapflow.core.errors import BackendError, ConfigError, SizeError
from lapflow.core.state import Times
from lapflow.models.transformer import LearnSigmaOption, require_scales, with_variance

TIME_SCALE = 1000.0


class UNet(Backbone):
    """diffusers' UNet2DModel per scale; its attention is its own (SDPA), so the config's attention backend is
    not used."""

    mask = "self"

    def __init__(
        self,
        bands: Mapping[int, Band],
        condition: Specs | int = 0,
        attention: str | AttentionBackend = "auto",
        *,
        channels: Annotated[
            Sequence[Annotated[int, Field(ge=1)]],
            Field(min_length=1, description="channels of each level, fine to coarse"),
        ] = (224, 448, 672, 896),
        layers: Annotated[int, Field(ge=1, description="residual blocks per level")] = 2,
        attention_levels: Annotated[
            Sequence[Annotated[int, Field(ge=0)]],
            Field(description="levels with self-attention, 0 the finest"),
        ] = (1, 2, 3),
        head_width: Annotated[int, Field(ge=1, description="channels per attention head")] = 32,
        groups: Annotated[
            int, Field(ge=1, description="groups of the normalisation; divides every level's channels")
        ] = 32,
        learn_sigma: LearnSigmaOption = False,
    ) -> None:
        super().__init__()
        self.heads = (VARIANCE,) if learn_sigma else ()
        backend = type(resolve(attention)).__name__
        if backend not in ("Auto", "SDPA"):
            raise ConfigError(
                "the U-Net's attention is its own, SDPA", got=f"attention {backend}", expected="auto or sdpa"
            )
        self.bands, self.condition, self.learn_sigma = dict(bands), specs(condition), learn_sigma
        if other := [name for name in self.condition if name != CLASS]:
            raise ConfigError(
                "the U-Net embeds classes only",
                got=", ".join(other),
                expected="conditioner: classes, or model: mot-dit",
            )
        kinds = ["AttnDownBlock2D" if i in attention_levels else "DownBlock2D" for i in range(len(channels))]
        self._options: dict[str, Any] = {
            "block_out_channels": tuple(channels),
            "layers_per_block": layers,
            "attention_head_dim": head_width,
            "norm_num_groups": groups,
            "down_block_types": tuple(kinds),
            "up_block_types": tuple(kind.replace("Down", "Up") for kind in reversed(kinds)),
        }
        self._check(channels, groups, head_width, attention_levels)
        self.nets = nn.ModuleDict({str(k): self._net(band) for k, band in bands.items()})

    def _check(
        self, channels: Sequence[int], groups: int, head_width: int, attention_levels: Sequence[int]
    ) -> None:
        if wrong := [c for c in channels if c % groups or c % head_width]:
            raise ConfigError(
                "the U-Net's channels do not fit",
                got=f"{wrong}",
                expected=f"multiples of groups {groups} and of head_width {head_width}",
            )
        if wrong := [i for i in attention_levels if i >= len(channels)]:
            raise ConfigError(
                "there is no such level of the U-Net",
                got=f"attention_levels {wrong}",
                expected=f"0 to {len(channels) - 1}",
            )
        multiple = 2 ** (len(channels) - 1)
        for k, band in self.bands.items():
            require_images("the backbone unet", len(band.sizes))
            if any(size % multiple for size in band.sizes):
                raise SizeError(
                    f"scale {k} cannot be halved {len(channels) - 1} times",
                    got="x".join(map(str, band.sizes)),
                    expected=f"multiples of {multiple}",
                    remedy="give fewer channels (levels), or other image sizes",
                )

    def _net(self, band: Band) -> Any:
        try:
            from diffusers import UNet2DModel
        except ImportError as error:
            raise BackendError(
                "the backbone unet needs diffusers", got=str(error), remedy="pip install 'lapflow[diffusers]'"
            ) from None
        beside = band.condition + 1 if band.condition else 0  # and a plane that holds the level
        return UNet2DModel(  # an nn.Module
            sample_size=band.sizes,
            in_channels=band.channels + beside,
            out_channels=band.channels * (1 + self.learn_sigma),
            num_class_embeds=num_classes(self.condition) + 1 if self.condition else None,
            **self._options,
        )

    def forward(
        self,
        state: Mapping[int, Tensor],
        t: Times,
        condition: Condition | Tensor | None = None,
        *,
        t_end: Times | None = None,
        return_hidden: Sequence[str] = (),
    ) -> Any:
        self.require_inputs(t, t_end, return_hidden)
        assert isinstance(t, Tensor), "one time for all scales"
        require_scales(state, self.bands)
        given = self.known(condition)
        labels = self.class_rows(given, t) if self.condition else None
        found = {k: self._predict(k, x, t, labels, given) for k, x in state.items()}
        return with_variance(found, self.learn_sigma)

    def _predict(self, scale: int, x: Tensor, t: Tensor, labels: Tensor | None, given: Condition) -> Tensor:
        net: Any = self.nets[str(scale)]
        x = x.to(next(net.parameters()).dtype)
        if (coarser := self.coarser(given, scale)) is not None:
            level = coarser.level.to(x.dtype)[:, None, None, None].expand(-1, 1, *x.shape[-2:])
            x = torch.cat([x, coarser.value[scale].to(x.dtype), level], dim=1)
        return cast(Tensor, net(x, TIME_SCALE * t, class_labels=labels).sample)

    def units(self) -> list[nn.Module]:
        nets: list[Any] = list(self.nets.values())
        return [block for net in nets for block in (*net.down_blocks, net.mid_block, *net.up_blocks)]

    def reset_parameters(self) -> None:
        """Initialise all parameters, also after `to_empty` from device meta."""
        for module in self.modules():
            if module is not self and hasattr(module, "reset_parameters"):
                cast(Any, module).reset_parameters()
