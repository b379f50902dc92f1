"""lapflow at home in diffusers and on the Hub: a pipeline with diffusers' interface, its network as a diffusers model, folders that
both libraries load. Needs the extra `[diffusers]`; without it the import raises `BackendError`."""

from lapflow.core.errors import BackendError

try:
    import diffusers as _diffusers  # noqa: F401
except Exception as error:  # an unfit torch or transformers fails with other errors than ImportError
    raise BackendError(
        "LapFlowPipeline and LapFlowModel need the package diffusers", got=str(error), remedy="pip install 'lapflow[diffusers]'"
    ) from error

from lapflow.hub.model import LapFlowModel
from lapflow.hub.pipeline import LapFlowPipeline

__all__ = ["LapFlowModel", "LapFlowPipeline"]
