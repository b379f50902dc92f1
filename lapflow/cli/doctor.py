"""`lapflow doctor`: what this machine has, what is missing, and why."""

from __future__ import annotations

import importlib
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from lapflow import __version__
from lapflow.core.errors import LapflowError

EXTRAS = {
    "demo": ("sklearn", "matplotlib", "starlette", "uvicorn"),
    "wavelets": ("pywt",),
    "fidelity": ("torch_fidelity",),
    "diffusers": ("diffusers",),
    "deepspeed": ("deepspeed",),
    "xformers": ("xformers",),
    "flash": ("flash_attn",),
    "tensorboard": ("tensorboard",),
    "peers": ("flow_matching",),
    "docs": ("mkdocs", "material", "mkdocstrings", "latex2mathml", "diffusers"),
    "notebooks": ("nbformat", "nbclient", "ipykernel"),
}
"""The optional packages of each extra, by the names under which they are imported."""


ENGINES: dict[str, dict[str, object]] = {
    "torch": {"name": "torch"},
    "torch fsdp2": {"name": "torch", "parallel": "fsdp2"},
    "deepspeed": {"name": "deepspeed"},
}


def doctor(
    smoke: Annotated[
        bool, typer.Option(help="Train two steps in a temporary folder too, with each engine that can run.")
    ] = True,
) -> None:
    """Show versions, devices, precisions, optional packages, engines, attention backends and plugins, each
    with the reason where one fails."""
    from rich.table import Table

    from lapflow.cli.tables import print_table

    table = Table(box=None, pad_edge=False, show_header=False)
    for width in (14, 16, None):
        table.add_column(width=width, overflow="fold")
    for section, rows in (
        ("versions", versions()),
        ("devices", devices()),
        ("precision", precisions()),
        ("extras", extras()),
        ("engines", engines(smoke)),
        ("attention", attention()),
        ("plugins", plugins()),
    ):
        for i, (name, state) in enumerate(rows):
            table.add_row(section if i == 0 else "", name, state)
        table.add_section()
    print_table(table)


def versions() -> list[tuple[str, str]]:
    import torch

    return [("lapflow", __version__), ("python", platform.python_version()), ("torch", torch.__version__)]


def devices() -> list[tuple[str, str]]:
    """The CPU and every GPU."""
    import torch

    rows = [("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch")]
    if not torch.cuda.is_available():
        why = "torch sees no GPU" if torch.version.cuda else "this torch is built without CUDA"
        rows.append(("cuda", f"none: {why}"))
    for i in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(i)
        memory = f"{found.total_memory / 2**30:.0f} GiB"
        rows.append((f"cuda:{i}", f"{found.name}, {memory}, compute capability {found.major}.{found.minor}"))
    return rows


def precisions() -> list[tuple[str, str]]:
    """What `engine.precision` may be on each kind of device, and how a product of matrices fares in it."""
    import torch

    rows = [("fp32", "ready")]
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        try:
            with torch.autocast(device, dtype=torch.bfloat16):
                product = torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)
            right = product.dtype == torch.bfloat16 and bool((product == 8).all())
            state = "ready" if right else "gives wrong results"
        except RuntimeError as error:
            state = str(error).splitlines()[0]
        if device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            state += ", emulated: slower than fp32"
        rows.append((f"bf16 on {device}", state))
    return rows


def extras() -> list[tuple[str, str]]:
    """Each extra: its packages' versions, or why they cannot be used."""
    return [(f"[{extra}]", ", ".join(map(_package, packages))) for extra, packages in EXTRAS.items()]


def _package(name: str) -> str:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        return f"{name} is not installed" if error.name == name else f"{name}: {error}"
    except Exception as error:  # whatever keeps it from loading is what the user wants to see
        return f"{name}: {_reason(error)}"
    return f"{name} {getattr(module, '__version__', '(no version)')}"


def engines(smoke: bool) -> list[tuple[str, str]]:
    """Each engine on one process: ready, or the reason why not; with `smoke` after two steps of training in
    earnest."""
    import torch.distributed as dist

    rows = [(name, _engine(spec, smoke)) for name, spec in ENGINES.items()]
    backends = {"gloo": dist.is_gloo_available(), "nccl": dist.is_nccl_available()}
    between = ", ".join(name for name, there in backends.items() if there)
    return [*rows, ("processes", f"{between}; launch several with torchrun")]


def _engine(spec: dict[str, object], smoke: bool) -> str:
    from lapflow.config.building import build_engine
    from lapflow.config.loading import load_config, resolved
    from lapflow.training.loop import train

    small = ["model.width=32", "model.heads=2", "model.depth=1", "training.batch_size=8", "training.steps=2"]
    try:
        config = load_config({**resolved(load_config("lapflow-digits", small)), "engine": spec})
        if not smoke:
            build_engine(config).start()
            return "ready"
        since = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            train(config, Path(folder) / "run")
        took = f"{time.perf_counter() - since:.1f} s"
        return f"ready: two steps on {build_engine(config).device} and a checkpoint in {took}"
    except Exception as error:  # whatever keeps an engine from training is what the user wants to see
        return _reason(error)


def attention() -> list[tuple[str, str]]:
    """Each backend on each kind of device, at head dimension 64, with gradients: ready, or the reason why
    not."""
    import torch

    from lapflow.plugins.registry import create, names

    cases = [(torch.device("cpu"), torch.float32)]
    if torch.cuda.is_available():
        cases += [(torch.device("cuda"), dtype) for dtype in (torch.float32, torch.bfloat16)]
    rows = []
    for name in names("attention"):
        try:
            backend = create("attention", name)
        except LapflowError as error:
            rows.append((name, _reason(error)))
            continue
        states = [
            f"{d.type} {str(dtype).removeprefix('torch.')}: {backend.supports(d, dtype, 64, True) or 'ready'}"
            for d, dtype in cases
        ]
        rows.append((name, "; ".join(states)))
    return rows


def plugins() -> list[tuple[str, str]]:
    """Every component that another distribution offers."""
    from lapflow.plugins.kinds import KINDS
    from lapflow.plugins.registry import sources

    rows = []
    for kind in KINDS:
        for listed in sources(kind, load=True):
            source, cause = listed.source, f": {listed.cause}" if listed.cause else ""
            if source.distribution != "lapflow":
                origin = f"{kind} of {source.distribution} {source.version}"
                rows.append((source.name, f"{origin}, {listed.status}{cause}"))
    return rows or [("none", "")]


def _reason(error: Exception) -> str:
    """What went wrong, in a line."""
    if isinstance(error, LapflowError):
        return str(error.got or error.what)
    return f"{type(error).__name__}: {''.join(str(error).splitlines()[:1])}"
