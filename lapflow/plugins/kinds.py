"""The kinds of component: their contracts, the entry-point groups in which plugins offer their own, and the
components of lapflow itself, as strings: nothing is imported before it is named."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from lapflow.core.component import Component
from lapflow.core.errors import ConfigError, suggest


@dataclass(frozen=True)
class Kind:
    """One extension point: its `name`, its `contract` as 'module:Class' (imported when needed), its
    entry-point `group`, and the `key` under which a config names a component of it."""

    name: str
    contract: str
    group: str
    key: str

    def load_contract(self) -> type[Component]:
        module, _, attribute = self.contract.partition(":")
        return getattr(importlib.import_module(module), attribute)


KINDS: dict[str, Kind] = {
    name: Kind(name, f"lapflow.core.{contract}", f"lapflow.{group}", key)
    for name, contract, group, key in (
        ("decomposition", "decomposition:Decomposition", "decompositions", "decomposition"),
        ("intervals", "intervals:IntervalSchedule", "intervals", "intervals"),
        ("path", "path:Path", "paths", "path"),
        ("bridge", "bridge:Bridge", "bridges", "bridge"),
        ("noise", "noise:Noise", "noises", "noise"),
        ("time_law", "time_law:TimeLaw", "time_laws", "time_law"),
        ("coupling", "coupling:Coupling", "couplings", "coupling"),
        ("prediction", "prediction:Prediction", "predictions", "prediction"),
        ("backbone", "backbone:Backbone", "backbones", "model"),
        ("codec", "codec:Codec", "codecs", "codec"),
        ("conditioner", "condition:Conditioner", "conditioners", "conditioner"),
        ("objective", "objective:Objective", "objectives", "objective"),
        ("optimizer", "optimizer:Optimizer", "optimizers", "optimizer"),
        ("solver", "solver:Solver", "solvers", "solver"),
        ("guidance", "guidance:Guidance", "guidances", "guidance"),
        ("attention", "attention:AttentionBackend", "attention", "attention"),
        ("engine", "engine:Engine", "engines", "engine"),
        ("dataset", "dataset:Dataset", "datasets", "data"),
        ("features", "features:FeatureExtractor", "features", "features"),
    )
}


def find_kind(name: str) -> Kind:
    """The kind called `name`. Raises `ConfigError` for an unknown one."""
    if name not in KINDS:
        raise ConfigError("there is no such kind of component", got=repr(name), expected=suggest(name, KINDS))
    return KINDS[name]


BUILTIN: dict[str, dict[str, str]] = {
    "decomposition": {
        "identity": "lapflow.pyramids.identity:Identity",
        "laplacian": "lapflow.pyramids.laplacian:LaplacianPyramid",
        "wavelet": "lapflow.pyramids.wavelet:WaveletPyramid",
        "block-dct": "lapflow.pyramids.block_dct:BlockDCT",
    },
    "intervals": {
        "cumulative": "lapflow.schedules.intervals:CumulativeIntervals",
        "stages": "lapflow.schedules.intervals:Stages",
    },
    "path": {
        "linear": "lapflow.flows.paths.affine:LinearPath",
        "gvp": "lapflow.flows.paths.affine:GVPPath",
        "vp": "lapflow.flows.paths.affine:VPPath",
        "vp-discrete": "lapflow.flows.paths.vp_discrete:DiscreteVPPath",
        "pyramidal": "lapflow.flows.paths.affine:PyramidalPath",
        "edm": "lapflow.flows.paths.edm:EDMPath",
        "edify": "lapflow.flows.paths.edm:EdifyPath",
        "relay": "lapflow.flows.paths.edm:RelayPath",
    },
    "bridge": {
        "append": "lapflow.flows.bridges:AppendBridge",
        "transition": "lapflow.flows.bridges:TransitionBridge",
        "renoise": "lapflow.flows.bridges:RenoiseBridge",
        "condition": "lapflow.flows.bridges:ConditionBridge",
    },
    "noise": {
        "decomposed": "lapflow.core.noise:DecomposedNoise",
        "independent": "lapflow.core.noise:IndependentNoise",
        "blurred": "lapflow.core.noise:BlurredNoise",
    },
    "time_law": {
        "uniform": "lapflow.core.time_law:Uniform",
        "logit-normal": "lapflow.schedules.draws:LogitNormal",
        "shifted": "lapflow.schedules.draws:Shifted",
    },
    "coupling": {
        "independent": "lapflow.core.coupling:Independent",
        "minibatch-ot": "lapflow.schedules.draws:MinibatchOT",
    },
    "prediction": {
        "velocity": "lapflow.core.prediction:VelocityPrediction",
        "denoised": "lapflow.core.prediction:DenoisedPrediction",
        "noise": "lapflow.core.prediction:NoisePrediction",
        "score": "lapflow.core.prediction:ScorePrediction",
        "edm": "lapflow.core.prediction:EDMPrediction",
    },
    "backbone": {
        "mot-dit": "lapflow.models.mot_dit:MoTDiT",
        "separate": "lapflow.models.mot_dit:Separate",
        "unet": "lapflow.models.unet:UNet",
    },
    "codec": {
        "pixels": "lapflow.models.codecs:Pixels",
        "autoencoder-kl": "lapflow.models.codecs:AutoencoderKLCodec",
    },
    "conditioner": {
        "classes": "lapflow.models.conditioners:ClassLabels",
        "vector": "lapflow.models.conditioners:NumberVector",
        "bytes": "lapflow.models.conditioners:ByteCaptions",
    },
    "objective": {
        "mse": "lapflow.objectives.mse:MSE",
        "vlb": "lapflow.objectives.mse:VariationalMSE",
    },
    "optimizer": {
        "adamw": "lapflow.optimizers.torch:AdamW",
        "torch": "lapflow.optimizers.torch:TorchOptimizer",
        "muon": "lapflow.optimizers.torch:Muon",
    },
    "solver": {
        "euler": "lapflow.solvers.fixed_step:Euler",
        "midpoint": "lapflow.solvers.fixed_step:Midpoint",
        "heun": "lapflow.solvers.fixed_step:Heun",
        "rk4": "lapflow.solvers.fixed_step:RK4",
        "ab2": "lapflow.solvers.fixed_step:AdamsBashforth2",
        "dopri5": "lapflow.solvers.adaptive:Dopri5",
        "dopri8": "lapflow.solvers.adaptive:Dopri8",
        "bosh3": "lapflow.solvers.adaptive:Bosh3",
        "fehlberg2": "lapflow.solvers.adaptive:Fehlberg2",
        "adaptive-heun": "lapflow.solvers.adaptive:AdaptiveHeun",
        "ddim": "lapflow.solvers.denoising:DDIM",
        "ddpm": "lapflow.solvers.denoising:DDPM",
        "relay": "lapflow.solvers.denoising:RelaySolver",
        "heun-edm": "lapflow.solvers.denoising:HeunEDM",
        "euler-maruyama": "lapflow.solvers.denoising:EulerMaruyama",
    },
    "guidance": {
        "cfg": "lapflow.sampling.guidance:ClassifierFreeGuidance",
    },
    "attention": {
        "auto": "lapflow.backends.attention:Auto",
        "flash": "lapflow.backends.attention:Flash",
        "xformers": "lapflow.backends.attention:Xformers",
        "sdpa": "lapflow.backends.attention:SDPA",
        "flex": "lapflow.backends.attention:Flex",
    },
    "engine": {
        "torch": "lapflow.backends.engines.torch:TorchEngine",
        "deepspeed": "lapflow.backends.engines.deepspeed:DeepSpeedEngine",
    },
    "dataset": {
        "digits": "lapflow.data.digits:Digits",
        "glyphs": "lapflow.data.glyphs:Glyphs",
        "moving-digits": "lapflow.data.moving_digits:MovingDigits",
        "ecg": "lapflow.data.series:ECG",
        "captioned-digits": "lapflow.data.captioned_digits:CaptionedDigits",
        "folder": "lapflow.data.folder:ImageFolder",
        "latents": "lapflow.data.latents:Latents",
    },
    "features": {
        "pixels": "lapflow.features.pixels:PixelFeatures",
        "inception": "lapflow.features.inception:InceptionFeatures",
        "module": "lapflow.features.module:ModuleFeatures",
    },
}
"""The components of lapflow by kind and name, as 'module:Class'."""
