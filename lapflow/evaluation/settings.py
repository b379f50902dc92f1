"""What an evaluation is asked for: the run's own settings, what a command changes of them, and whom they come
from."""

from __future__ import annotations

from collections.abc import Sequence

from lapflow.config.building import build_features
from lapflow.config.loading import load_config, resolved
from lapflow.config.schema import Config
from lapflow.core.errors import ConfigError

SECTION, FEATURES = "evaluation", "evaluation.features"


def evaluation_config(config: Config, overrides: Sequence[str]) -> Config:
    """The run's `config` with `key=value` overrides of its section `evaluation`.

    A run's config may come from anybody, with its checkpoint. An extractor in it that names code is not taken
    over: the overrides must name one themselves, whole. Raises `ConfigError`.
    """
    for text in overrides:
        if not text.startswith(f"{SECTION}."):
            raise ConfigError(
                "an evaluation changes nothing of the run but how it is measured",
                got=text,
                expected=f"{SECTION}.KEY=VALUE, such as evaluation.metrics=[frechet,kid]",
            )
    values = resolved(config)
    if not any(text.startswith(FEATURES) for text in overrides):
        require_own_words(config)
    elif build_features(config, 255).runs_code:
        values[SECTION] = {key: value for key, value in values[SECTION].items() if key != "features"}
    return load_config(values, overrides)


def require_own_words(config: Config) -> None:
    """Raises `ConfigError` where the extractor of a config that came with a checkpoint names code."""
    if build_features(config, 255).runs_code:
        raise ConfigError(
            "the run names code as its feature extractor, and a run may come from anybody",
            got=str(config.evaluation.features),
            expected="an extractor that you name yourself",
            remedy="say it in the command, if you trust it: lapflow evaluate RUN "
            "'evaluation.features={name: ..., ...}'",
        )
