"""`lapflow encode`: a data set's images through the codec once, into a cache that training reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lapflow.cli import options


def encode(
    config: Annotated[
        str, typer.Argument(help="A recipe's name or a YAML file; its data and codec are what counts.")
    ],
    overrides: Annotated[list[str] | None, options.changes("data.root=photos")] = None,
    out: Annotated[Path, typer.Option(help="The folder of the latents.")] = Path("latents"),
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded at once.")] = 32,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], typer.Option(help="The numbers as they are kept.")
    ] = "float32",
    flip: Annotated[
        bool | None, typer.Option(help="Encode mirrored images too. Default: the config's training.flip.")
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Images in a file.")] = 1024,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that read images. Default: the config's training.workers."),
    ] = None,
    device: Annotated[
        str,
        typer.Option(help="auto, cpu, cuda or cuda:N; auto takes a GPU, of several each process its own."),
    ] = "auto",
) -> None:
    """Encode CONFIG's images, train and test, and write manifest.json. Train with data={name: latents, path:
    OUT}.

    The same command goes on where it was stopped. Under torchrun, or with RANK and WORLD_SIZE set, each
    process makes its share.
    """
    from contextlib import nullcontext

    from lapflow.backends.engines.processes import resolve_device, this_process
    from lapflow.cli.progress import counter
    from lapflow.config.building import build_codec, build_dataset
    from lapflow.config.loading import load_config
    from lapflow.data.encoding import Encoder, plan
    from lapflow.data.quarantine import QUARANTINE, listed

    settings = load_config(config, overrides or [])
    rank, world_size, local_rank = this_process()
    where = resolve_device(device, local_rank)
    dataset, codec = build_dataset(settings), build_codec(settings)
    cache = plan(
        dataset,
        codec,
        images=settings.data,
        made_by=settings.codec,
        device=where,
        dtype=dtype,
        flip=settings.training.flip if flip is None else flip,
        shard_size=shard_size,
    )
    total = sum(shard.count for shard in cache.shards()[rank::world_size])
    # Of several processes one shows its progress; the others' is much the same.
    with counter("encoding", total) if rank == 0 else nullcontext(lambda count: None) as progress:
        missing = Encoder(
            dataset,
            codec,
            cache,
            out,
            device=where,
            batch_size=batch_size,
            workers=settings.training.workers if workers is None else workers,
            rank=rank,
            world_size=world_size,
            progress=progress,
            bad_images=settings.training.bad_images,
        ).run()
    if missing:
        to_come = f"{len(missing)} shards are still to come from the others, {missing[0]} first"
        typer.echo(f"process {rank} of {world_size} is done; {to_come}")
    else:
        typer.echo(f"{sum(cache.counts.values())} images -> {out}/manifest.json")
    if replaced := listed(out / QUARANTINE):
        typer.echo(f"{replaced} images could not be read and are replaced by others: {out / QUARANTINE}")
