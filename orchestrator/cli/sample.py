"""`orchestrate sample SOURCE`: a picture of samples from a run, a model's files, or a registered model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALLEST_PX = 320  # smaller pictures are enlarged, pixel by pixel


@click.command(short_help="A PNG grid from a run, a model file, or models:/name@alias.")
@click.argument("source", default="latest", shell_complete=options.complete_runs)
@click.option("-n", "count", type=click.IntRange(1, 4096), default=64, show_default=True, help="How many samples.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="One seed gives one picture.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), default="samples.png", show_default=True)
@click.option("--label", "labels", type=click.IntRange(0), multiple=True, help="Only this class. Repeatable: in turn.")
@click.option("--truncation", type=click.FloatRange(0, 1, min_open=True), help="Scales normal latents.")
@click.option("--columns", type=click.IntRange(1), help="Columns of the grid.")
@click.option("--stage", metavar="STAGE", help="Which stage's model, where a run made several.")
@options.storage
@click.option("--tracking", metavar="URI", help="The MLflow of models:/…, unless it is the storage's own.")
@options.as_json
def command(
    source: str,
    count: int,
    seed: int,
    output: str,
    labels: tuple[int, ...],
    truncation: float | None,
    columns: int | None,
    stage: str | None,
    storage: str,
    tracking: str | None,
    as_json: bool,
) -> None:
    """Draw samples from SOURCE and write them as one PNG picture.

    \b
    orchestrate sample                              the newest run that made a model
    orchestrate sample dcgan                        the newest run of a pipeline
    orchestrate sample dcgan-20261122-013000-ab12   a run
    orchestrate sample models:/dcgan@champion       a registered model
    orchestrate sample exported/model.safetensors   a model's files
    """
    from orchestrator.loaded import sample_source

    target = Path(output)
    check_folder(target)
    samples = sample_source(
        source,
        count,
        seed,
        labels=[labels[i % len(labels)] for i in range(count)] if labels else None,
        truncation=truncation,
        storage=storage,
        tracking_uri=tracking,
        stage=stage,
    )
    target.write_bytes(_picture(samples, columns))
    if as_json:
        options.emit(source=source, output=str(target), n=count, seed=seed, shape=list(samples.shape))
    else:
        options.echo(str(target))


def check_folder(target: Path) -> None:
    """Raises BadInput before any work where the picture could not be written."""
    from orchestrator.errors import BadInput

    if target.suffix.lower() != ".png":
        raise BadInput(f"{target} is no PNG file", hint="end its name in .png")
    if not target.absolute().parent.is_dir():
        raise BadInput(f"there is no directory {target.parent}", hint="make it, or choose another -o")


def _picture(samples: NDArray[Any], columns: int | None) -> bytes:
    """PNG of images (n, H, W, C) side by side, or of points (n, D) as a cloud."""
    from trainers import pictures

    if samples.ndim == 2:
        return pictures.png(pictures.scatter(samples, samples))
    sheet = pictures.grid(samples, columns)
    return pictures.png(pictures.enlarge(sheet, max(1, SMALLEST_PX // sheet.shape[1])))
