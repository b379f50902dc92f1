"""The components that come with lapflow, by kind and name. Strings, so that nothing is imported before it is named."""

from __future__ import annotations

BUILTIN: dict[str, dict[str, str]] = {
    "decomposition": {
        "identity": "lapflow.pyramids.identity:Identity",
        "laplacian": "lapflow.pyramids.laplacian:LaplacianPyramid",
        "wavelet": "lapflow.pyramids.wavelet:WaveletPyramid",
    },
    "intervals": {
        "cumulative": "lapflow.pyramids.cumulative:CumulativeIntervals",
    },
    "path": {
        "linear": "lapflow.flows.linear:LinearPath",
        "gvp": "lapflow.flows.gvp:GVPPath",
        "vp": "lapflow.flows.vp:VPPath",
    },
    "bridge": {
        "append": "lapflow.flows.append:AppendBridge",
    },
    "backbone": {
        "mot-dit": "lapflow.models.mot_dit:MoTDiT",
        "separate": "lapflow.models.separate:Separate",
    },
    "codec": {
        "pixels": "lapflow.models.codecs.pixels:Pixels",
        "autoencoder-kl": "lapflow.models.codecs.autoencoder_kl:AutoencoderKLCodec",
    },
    "objective": {
        "velocity-mse": "lapflow.core.objective:VelocityMSE",
    },
    "solver": {
        "euler": "lapflow.solvers.runge_kutta:Euler",
        "midpoint": "lapflow.solvers.runge_kutta:Midpoint",
        "heun": "lapflow.solvers.runge_kutta:Heun",
        "rk4": "lapflow.solvers.runge_kutta:RK4",
        "dopri5": "lapflow.solvers.adaptive:Dopri5",
        "dopri8": "lapflow.solvers.adaptive:Dopri8",
        "bosh3": "lapflow.solvers.adaptive:Bosh3",
        "fehlberg2": "lapflow.solvers.adaptive:Fehlberg2",
        "adaptive-heun": "lapflow.solvers.adaptive:AdaptiveHeun",
    },
    "guidance": {
        "cfg": "lapflow.flows.guidance:ClassifierFreeGuidance",
    },
    "attention": {
        "auto": "lapflow.backends.attention.auto:Auto",
        "flash": "lapflow.backends.attention.flash:Flash",
        "xformers": "lapflow.backends.attention.xformers:Xformers",
        "sdpa": "lapflow.backends.attention.sdpa:SDPA",
        "flex": "lapflow.backends.attention.flex:Flex",
    },
    "engine": {
        "torch": "lapflow.backends.engines.torch:TorchEngine",
    },
    "dataset": {
        "digits": "lapflow.data.digits:Digits",
        "folder": "lapflow.data.folder:ImageFolder",
    },
    "features": {
        "pixels": "lapflow.data.features:PixelFeatures",
    },
}
