"""DeepSpeed's engine: ZeRO (Rajbhandari et al. 2020), which shards optimizer state, gradients and weights
over processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from lapflow.backends.engines.processes import DeviceOption, PrecisionOption, ProcessEngine, TimeoutOption
from lapflow.core.errors import BackendError

STEP = "step"
"""The key under which Adam counts its steps."""

LINEAR = torch.nn.functional.linear
"""What stage 3 replaces in the whole process, and leaves replaced."""

LARGEST_BUCKET = 500_000_000
"""Gradients reduced at once, in elements."""


class DeepSpeedEngine(ProcessEngine):
    """ZeRO stage 0 shares nothing out, 1 the optimizer's state, 2 the gradients too, 3 the weights too.

    Weights stay in float32 (bf16 is DeepSpeed's `torch_autocast`), so that what is saved is what is trained.
    `offload` keeps the optimizer's state, and its steps, on the CPU.
    """

    same_segments = True

    def __init__(
        self,
        *,
        zero: Annotated[
            Literal[0, 1, 2, 3], Field(description="ZeRO stage: what the processes share out")
        ] = 2,
        offload: Annotated[
            bool, Field(description="keep the optimizer's state on the CPU (stages 1 to 3)")
        ] = False,
        device: DeviceOption = "auto",
        precision: PrecisionOption = "fp32",
        timeout: TimeoutOption = 1800.0,
    ) -> None:
        super().__init__(device, precision, timeout)
        self.zero, self.offload = zero, offload
        self.engine: Any = None
        if offload and zero == 0:
            raise BackendError(
                "offload keeps a sharded optimizer on the CPU", got="zero: 0", expected="zero: 1, 2 or 3"
            )

    @property
    def cuts_weights(self) -> bool:
        return self.zero > 0

    def start(self) -> None:
        if self.device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ.setdefault("LOCAL_RANK", str(self.device.index or 0))  # DeepSpeed takes its device from it
        try:
            import deepspeed
        except Exception as error:  # an unfit torch or a missing compiler fails with others than ImportError
            raise BackendError(
                "the deepspeed engine needs the package deepspeed",
                got=str(error),
                remedy="pip install 'lapflow[deepspeed]'",
            ) from error
        # On a CPU DeepSpeed would compile sums in shared memory at its first start, for minutes on a busy
        # machine; gloo does them.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self.join()
        deepspeed.init_distributed(
            dist_backend="nccl" if self.device.type == "cuda" else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
        )

    def stop(self) -> None:
        """Let go of the model; the process group stays, since DeepSpeed holds on to it as long as the process
        lives."""
        if self.engine is not None:
            self.engine.destroy()
            self.engine = None
            torch.nn.functional.linear = LINEAR

    def prepare(
        self,
        model: nn.Module,
        optimizer: Callable[[Mapping[str, nn.Parameter]], torch.optim.Optimizer],
        *,
        grad_clip_norm: float | None = None,
        units: Sequence[nn.Module] = (),
    ) -> nn.Module:
        import deepspeed

        self.model, self.grad_clip_norm = model.to(self.device), grad_clip_norm
        self.entries = {name: x.shape for name, x in model.state_dict().items()}
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimizer(self.parameters),
            config=self._config(),
            dist_init_required=False,
        )
        if self.zero == 0:
            self.optimizer.register_step_pre_hook(lambda *_: self._clip_whole())
        wrapped: nn.Module = self.engine
        return wrapped

    def _config(self) -> dict[str, Any]:
        # A bucket as large as the model at most: DeepSpeed's own takes 2 GB.
        elements = sum(p.numel() for p in self.parameters.values())
        zero: dict[str, Any] = {"stage": self.zero, "reduce_bucket_size": min(elements, LARGEST_BUCKET)}
        if self.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        return {
            # DeepSpeed only counts with it: the loss is the mean that we give it
            "train_micro_batch_size_per_gpu": 1,
            "managed_gradient_accumulation": False,
            "gradient_clipping": (self.grad_clip_norm or 0.0) if self.zero else 0.0,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            # No module is "safe" for sums of gradients in bf16: they are averaged in float32, as under every
            # engine.
            "torch_autocast": {
                "enabled": self.precision == "bf16",
                "dtype": "bfloat16",
                "lower_precision_safe_modules": [],
            },
            "steps_per_print": None,
        }

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if self.zero == 0 and self.agree(not self._norm().isfinite())[0]:
            self.engine.zero_grad()
            return float("nan")
        self.engine.step()
        self._forget()
        return float(self.norm if self.zero == 0 else self.engine.get_global_grad_norm())

    def _norm(self) -> Tensor:
        """Stage 0: the norm of the gradients as they stand."""
        return torch.nn.utils.get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])

    def _clip_whole(self) -> None:
        """Stage 0: the norm of the averaged gradients, and their clipping, just before the optimizer uses
        them."""
        self.norm = self._norm()
        if self.grad_clip_norm is not None:
            parameters = list(self.parameters.values())
            torch.nn.utils.clip_grads_with_norm_(parameters, self.grad_clip_norm, self.norm)

    def _forget(self) -> None:
        """Stage 3, and any with offload, keeps the gradient of a parameter that a step does not use, and
        would apply it again."""
        if self.zero == 3:
            self.optimizer.grad_partitions_flat_buffer.zero_()
        for flat in self._flats() if self.zero == 3 or self.offload else ():
            if flat.grad is not None:
                flat.grad.zero_()

    # ------------------------------------------------------------------ what is kept

    def shards(self) -> dict[str, Tensor]:
        return {name: getattr(x, "ds_tensor", x).detach() for name, x in self.held().items()}

    def gather(self, shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = [name for name in self.entries if name in shards]  # in the same order on all processes
        return self.on_first((name, self._gathered(name, shards[name])) for name in names)

    def _gathered(self, name: str, shard: Tensor) -> Tensor:
        """The tensor of which the processes hold `shard`; ZeRO-3 cuts the flat tensor into equal parts, the
        last one padded."""
        if not self._cut(name):
            return shard.clone()
        flat = torch.empty(shard.numel() * self.world_size, dtype=shard.dtype, device=shard.device)
        dist.all_gather_into_tensor(flat, shard)
        shape = self.entries[name]
        return flat[: shape.numel()].view(shape)

    def scatter(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        held, parts = self.shards(), {}
        for name, x in whole.items():
            parts[name] = x.to(self.device).clone()
            if self._cut(name):
                size = held[name].numel()
                flat = torch.nn.functional.pad(parts[name].flatten(), (0, size * self.world_size - x.numel()))
                parts[name] = flat[self.rank * size : (self.rank + 1) * size].clone()
        return parts

    def _cut(self, name: str) -> bool:
        return self.zero == 3 and name in self.parameters

    def state(self) -> dict[str, Tensor]:
        inner = self.optimizer if self.zero == 0 else self.optimizer.optimizer
        return self.on_first(
            (f"{name}/{key}", self._state_of(p, key).clone())
            for name, p in self.parameters.items()
            for key in sorted(inner.state[p if self.zero == 0 else self._flats()[0]])
        )

    def _state_of(self, p: nn.Parameter, key: str) -> Tensor:
        if self.zero == 0:
            return self.optimizer.state[p][key]
        if key == STEP:  # one count for all, since every parameter has a gradient in every step
            return self.optimizer.optimizer.state[self._flats()[0]][key]
        import deepspeed

        return deepspeed.utils.safe_get_full_optimizer_state(p, key)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        values = self.by_parameter(state)
        if self.zero == 0:
            for (name, key), value in values.items():
                self.optimizer.state[self.parameters[name]][key] = value.to(self.device).clone()
        elif values:
            self._restore_flats(values)

    def _restore_flats(self, values: Mapping[tuple[str, str], Tensor]) -> None:
        """Stages 1 to 3: the state of the flat parts, as the first step would have made it, then filled."""
        import deepspeed

        for flat in self._flats():
            inner = self.optimizer.optimizer.state[flat]
            for (_, key), value in values.items():
                if key not in inner:
                    inner[key] = value.to(flat.device, copy=True) if key == STEP else torch.zeros_like(flat)
        if self.zero < 3:
            # Private: the public setters below fill what this makes, and nothing public makes it.
            self.optimizer._lazy_init_hp_params_optimizer_state()
        for (name, key), value in values.items():
            p = self.parameters[name]
            if self.zero == 3 and key != STEP:
                deepspeed.utils.safe_set_local_optimizer_state(p, self.scatter({name: value})[name], key)
            elif key != STEP:
                deepspeed.utils.safe_set_full_optimizer_state(p, value.to(self.device), key)

    def _flats(self) -> list[Tensor]:
        """Stages 1 to 3: the flat float32 parts of the weights that this process's optimizer steps on."""
        return (
            self.optimizer.fp32_partitioned_groups_flat
            if self.zero == 3
            else self.optimizer.single_partition_of_fp32_groups
        )
