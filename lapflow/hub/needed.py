"""What the hub's modules are made of: names of diffusers and huggingface_hub. Importing this raises
`BackendError` without them."""

from __future__ import annotations

from lapflow.core.errors import BackendError

try:
    from diffusers import AutoencoderKL, ConfigMixin, DiffusionPipeline, ImagePipelineOutput, ModelMixin
    from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
    from diffusers.configuration_utils import register_to_config
    from huggingface_hub import create_repo, snapshot_download, upload_folder
except Exception as error:  # an unfit torch or transformers fails with other errors than ImportError
    raise BackendError(
        "lapflow.hub needs the package diffusers", got=str(error), remedy="pip install 'lapflow[diffusers]'"
    ) from error

__all__ = [
    "AutoencoderKL",
    "ConfigMixin",
    "DiffusionPipeline",
    "ImagePipelineOutput",
    "ModelMixin",
    "MultiPipelineCallbacks",
    "PipelineCallback",
    "create_repo",
    "register_to_config",
    "snapshot_download",
    "upload_folder",
]
