"""The features of FID: 2048 of Inception's last pooling layer (Szegedy et al. 2016; Heusel et al. 2017).

Every published FID uses one set of weights, that of `inception-2015-12-05`, a TensorFlow graph; other
Inception networks give other figures. Two copies of it exist for PyTorch: NVIDIA's TorchScript file
(StyleGAN2-ADA, EDM, clean-fid), which this extractor opens by path, and torch-fidelity's, for which that
package must be installed. Neither comes with lapflow, and nothing is downloaded.

A TorchScript file is a program: it is opened, and so run, only if its SHA-256 is the one stated.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lapflow.core.errors import BackendError, ConfigError, SizeError
from lapflow.core.features import FeatureExtractor
from lapflow.util.pixels import eight_bits

STANDARD = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""SHA-256 of NVIDIA's inception-2015-12-05.pt, as k-diffusion and others state it."""

FIDELITY = "6726825d"
"""How that of torch-fidelity's weights begins: the file's name says so,
weights-inception-2015-12-05-6726825d.pth."""

SIDE = 299
"""Pixels a side of what the network's first layer sees."""


class InceptionFeatures(FeatureExtractor):
    """Features of the standard Inception network on images rounded to 8 bits; grey ones are repeated in three
    channels.

    `resize` decides how images come to 299 pixels a side. `network` leaves it to the network: TensorFlow 1's
    bilinear interpolation without antialiasing, which is what most published figures used (TTUR, StyleGAN,
    ADM, EDM). `antialiased` is clean-fid's bicubic filter, which looks at every pixel where it makes images
    smaller (Parmar et al. 2022). Figures of the two cannot be compared.

    With `source` torchscript the file is called as `net(images_uint8, return_features=True)`. Raises
    `BackendError` for a file that is not there, not the one stated, or not such a network; `SizeError` for
    images of other than 1 or 3 channels.
    """

    def __init__(
        self,
        path: Annotated[
            str, Field(min_length=1, description="the file of the network, such as inception-2015-12-05.pt")
        ],
        *,
        source: Annotated[
            Literal["torchscript", "torch-fidelity"],
            Field(description="what the file is: a TorchScript network, or torch-fidelity's weights"),
        ] = "torchscript",
        sha256: Annotated[
            str | None,
            Field(
                pattern="^[0-9a-f]{64}$",
                description="SHA-256 of the file; null: that of the standard file of its source",
            ),
        ] = None,
        resize: Annotated[
            Literal["network", "antialiased"],
            Field(description="the network's own resizing, or clean-fid's antialiased bicubic"),
        ] = "network",
        batch_size: Annotated[int, Field(ge=1, description="images in the network at once")] = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.path, self.source, self.digest, self.batch_size = path, source, sha256, batch_size
        self.antialiased, self.device = resize == "antialiased", torch.device(device)
        if self.antialiased and source == "torch-fidelity":
            raise ConfigError(
                "torch-fidelity's network resizes by itself",
                got="resize: antialiased, source: torch-fidelity",
                expected="resize network, or the TorchScript file",
            )
        self._net: Any = None
        self._found = ""

    def load(self) -> None:
        if self._net is None:
            data = self._read()
            self._net = self._torchscript(data) if self.source == "torchscript" else self._fidelity(data)

    def __call__(self, images: Tensor) -> Tensor:
        self.load()
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise SizeError(
                "Inception takes grey or colour images", got=tuple(images.shape), expected="[b, 1 or 3, h, w]"
            )
        # Convolutions on a GPU in float32 and by one algorithm: TF32 moves a FID in the third digit.
        cudnn = torch.backends.cudnn
        exact = cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            parts = [self._features(part) for part in images.split(self.batch_size)]
        # inference_mode's tensors cannot be saved for a later backward pass; what leaves here is plain.
        return torch.cat(parts).clone()

    @property
    def resize(self) -> str:
        if self.antialiased:
            return f"bicubic with antialiasing to {SIDE}x{SIDE}, after rounding to 8 bits (clean-fid's)"
        how = "by the network: bilinear without antialiasing"
        return f"{how} to {SIDE}x{SIDE} (TensorFlow 1's), after rounding to 8 bits"

    @property
    def runs_code(self) -> bool:
        return self.source == "torchscript" and self.digest not in (None, STANDARD)

    def identity(self) -> dict[str, Any]:
        self.load()
        how = {"source": self.source, "resize": "antialiased" if self.antialiased else "network"}
        return {"class": type(self).__qualname__, **how, "sha256": self._found}

    def _features(self, images: Tensor) -> Tensor:
        pixels = eight_bits(images.to(self.device))
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        if self.antialiased:
            pixels = F.interpolate(pixels.float(), (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        try:
            named = self.source == "torchscript"
            out = self._net(pixels, return_features=True) if named else self._net(pixels)[0]
        except (RuntimeError, TypeError) as error:
            raise self._unfit(str(error).strip().splitlines()[-1]) from error
        if not isinstance(out, Tensor):
            raise self._unfit(f"{type(out).__name__} for {len(images)} images")
        if out.ndim < 2 or len(out) != len(images) or not out.is_floating_point():
            raise self._unfit(f"{out.dtype} of shape {tuple(out.shape)} for {len(images)} images")
        return out.double().flatten(1)

    def _read(self) -> bytes:
        """The file's content, if it is the one that was stated: what is checked is what is opened."""
        try:
            data = Path(self.path).expanduser().read_bytes()
        except OSError as error:
            raise BackendError(
                "the Inception network cannot be read",
                got=f"{self.path}: {error.strerror or error}",
                expected="the file inception-2015-12-05.pt, which does not come with lapflow",
                remedy="docs/evaluate.md says where it is found",
            ) from None
        self._found = hashlib.sha256(data).hexdigest()
        want = self.digest or (STANDARD if self.source == "torchscript" else FIDELITY)
        if not self._found.startswith(want):
            raise BackendError(
                "the file of the Inception network is not the one stated",
                got=f"{self.path} with SHA-256 {self._found}",
                expected=f"{want}{'' if len(want) == 64 else '...'}"
                + ("" if self.digest else ", the standard file"),
                remedy="bring the standard file; or, where you trust this one, state its sha256 (a "
                "TorchScript file is a program)",
            )
        return data

    def _torchscript(self, data: bytes) -> Any:
        try:
            with warnings.catch_warnings():
                # torch 2.13's advice to export anew; the file is as it is
                warnings.simplefilter("ignore", DeprecationWarning)
                return torch.jit.load(io.BytesIO(data), map_location=self.device).eval()
        except RuntimeError as error:
            raise self._unfit(str(error).strip().splitlines()[0]) from error

    def _fidelity(self, data: bytes) -> Any:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except Exception as error:  # torchvision that does not fit torch raises others than ImportError
            raise BackendError(
                "source torch-fidelity needs that package, which cannot be imported",
                got=f"{type(error).__name__}: {error}",
                remedy="pip install 'lapflow[fidelity]', or bring the TorchScript file",
            ) from error
        try:
            # first as weights alone: the package would unpickle anything
            torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            net = FeatureExtractorInceptionV3("lapflow", ["2048"], feature_extractor_weights_path=self.path)
        except Exception as error:  # a damaged or foreign pickle raises anything
            raise self._unfit((str(error).strip() or type(error).__name__).splitlines()[0]) from error
        return net.to(self.device)

    def _unfit(self, cause: str) -> BackendError:
        program = "net(images_uint8, return_features=True) -> [b, f]"
        expected = program if self.source == "torchscript" else "torch-fidelity's weights"
        return BackendError(
            "this is not the Inception network", got=f"{self.path}: {cause}", expected=expected
        )
