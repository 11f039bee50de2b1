"""The command cpt-nas kit."""

from __future__ import annotations

from typing import Annotated

import typer

from cpt_nas.cli.options import Output
from hwprofiles.options import (
    BatchSize,
    InputSize,
    ModelKwargs,
    Modules,
    Seed,
    create_models_at,
    key_value,
)
from hwprofiles.terminal import console as out
from hwprofiles.terminal import progress_bar


def kit(
    model: Annotated[str, typer.Argument(help="A timm model name.")],
    output: Output,
    networks: Annotated[
        int, typer.Option(min=20, help="Cut networks that the profile is fitted to.")
    ] = 100,
    unseen: Annotated[int, typer.Option(min=6, help="More of them, that it is judged on.")] = 30,
    input_size: InputSize = None,
    batch_size: BatchSize = 1,
    channel_divisor: Annotated[
        int, typer.Option(min=1, help="Widths are multiples of it; 8 or 16 suit most devices.")
    ] = 8,
    modules: Modules = None,
    model_kwargs: ModelKwargs = None,
    seed: Seed = 0,
) -> None:
    """Write cut networks as ONNX files, to be timed on a device without PyTorch.

    On the device: python run.py, which needs onnxruntime and numpy alone and writes times.csv. Any
    other harness can fill in that table. Then here: cpt-nas profile --from kit/times.csv.

    Example: cpt-nas kit cpt_resnet20 --batch-size 1 -o kit
    """
    from cpt_nas.calibration.kit import write_kit

    built, size = create_models_at([model], modules or [], input_size, model_kwargs or [])
    kwargs = {} if input_size is None else {"in_chans": input_size[0]}
    kwargs |= dict(key_value(pair) for pair in model_kwargs or [])
    with progress_bar() as report:
        made = write_kit(
            output,
            model,
            built[model],
            size,
            kwargs,
            networks,
            unseen,
            batch_size,
            channel_divisor,
            seed,
            report,
        )
    out.print(
        f"{output}: kit {made.id}, the dense network and {networks} + {unseen} cut ones; on the "
        f"device run python run.py, here then cpt-nas profile --from {output}/times.csv"
    )
