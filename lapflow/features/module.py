"""A user's own features: a Python callable by its path."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lapflow.core.errors import LapflowError, PluginError
from lapflow.core.features import FeatureExtractor
from lapflow.util.digest import tensors_sha256
from lapflow.util.files import file_sha256


class ModuleFeatures(FeatureExtractor):
    """What the callable `target`, named as `module:attribute`, gives for images [b, c, h, w] in [-1, 1]: [b,
    f].

    The attribute is a function, a `torch.nn.Module` (put on the device, in evaluation mode), or a class,
    which is made without arguments. Images are not rounded, clipped or resized; say in an attribute `resize`
    of it, a text, what it does. It is known by the SHA-256 of its source file and of its weights: what else
    it reads, nobody looks at.

    Importing runs code, so a person must name it: in a config file or on a command line. Never is a module
    imported because a checkpoint names it. Raises `PluginError` for what cannot be imported or called.
    """

    def __init__(
        self,
        target: Annotated[
            str,
            Field(
                pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$",
                description="module:attribute, such as my_features:embed",
            ),
        ],
        *,
        batch_size: Annotated[int, Field(ge=1, description="images in it at once")] = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.target, self.batch_size, self.device = target, batch_size, torch.device(device)
        self._function: Callable[[Tensor], Any] | None = None

    def load(self) -> None:
        if self._function is None:
            self._function = self._callable()

    def __call__(self, images: Tensor) -> Tensor:
        self.load()
        assert self._function is not None
        with torch.no_grad():
            parts = [self._function(part.to(self.device)) for part in images.split(self.batch_size)]
        for part in parts:
            if not isinstance(part, Tensor) or part.ndim < 2:
                shape = f" of shape {tuple(part.shape)}" if isinstance(part, Tensor) else ""
                found = type(part).__name__ + shape
                raise PluginError(
                    "the feature extractor does not give one vector per image",
                    got=f"{self.target}: {found}",
                    expected="[b, f]",
                )
        return torch.cat([part.double().flatten(1) for part in parts])

    @property
    def resize(self) -> str:
        self.load()
        return str(getattr(self._function, "resize", "not stated"))

    @property
    def runs_code(self) -> bool:
        return True

    def identity(self) -> dict[str, Any]:
        self.load()
        net, found = self._function, {"class": type(self).__qualname__, "target": self.target}
        weights = tensors_sha256(net.state_dict()) if isinstance(net, nn.Module) else None
        return {**found, "source": self._source(), "weights": weights}

    def _source(self) -> str | None:
        """The SHA-256 of the module's file; None for a module without one."""
        try:
            file = inspect.getsourcefile(importlib.import_module(self.target.partition(":")[0]))
            return None if file is None else file_sha256(Path(file))
        except (TypeError, OSError):
            return None

    def _callable(self) -> Callable[[Tensor], Any]:
        module, _, attribute = self.target.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
            found = found() if isinstance(found, type) else found
        except LapflowError:
            raise
        except Exception as error:  # whatever a module raises at import is the cause to show
            raise PluginError(
                "the features' module cannot be used",
                got=f"{self.target}: {type(error).__name__}: {error}",
                expected="module:attribute that Python can import",
                remedy="install it, or set PYTHONPATH to the folder that holds it",
            ) from error
        if isinstance(found, nn.Module):
            return found.to(self.device).eval().requires_grad_(False)
        if not callable(found):
            raise PluginError(
                "the features' module cannot be used",
                got=f"{self.target}: {type(found).__name__}",
                expected="something to call",
            )
        return found
