"""``fastode train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..errors import InvalidArgument, SolverError
from ..training import (
    TOYS,
    Data,
    RunFolder,
    StepRecord,
    TrainConfig,
    Trainer,
    fit,
    gaussian_nll,
    held_out_nll,
    load_data,
    stop_on_signals,
)
from .common import Threads, console, set_threads


def train(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            help=f"A built-in density ({', '.join(TOYS)}) or a file (.npy, .npz, .csv, .parquet).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; must not hold one yet.", show_default="runs/DATA")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue the run in this folder exactly where it stopped.", show_default=False),
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = TrainConfig.steps,
    batch: Annotated[int, typer.Option(help="Rows in a step.")] = TrainConfig.batch,
    lr: Annotated[
        float,
        typer.Option(help="Largest learning rate: warm-up over a tenth of the steps, then a cosine to zero."),
    ] = TrainConfig.lr,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.")] = TrainConfig.weight_decay,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient.")] = TrainConfig.clip,
    hidden: Annotated[str, typer.Option(help="Widths of the hidden layers of the field, with commas.")] = ",".join(
        map(str, TrainConfig.hidden)
    ),
    layer: Annotated[str, typer.Option(help="How time enters a layer: concatsquash or concat.")] = TrainConfig.layer,
    activation: Annotated[str, typer.Option(help="tanh, softplus or silu.")] = TrainConfig.activation,
    trace: Annotated[str, typer.Option(help="Divergence while training: exact or hutchinson.")] = TrainConfig.trace,
    noise: Annotated[str, typer.Option(help="Hutchinson's noise: rademacher or gaussian.")] = TrainConfig.noise,
    gradient: Annotated[str, typer.Option(help="discrete, autograd or backsolve.")] = TrainConfig.gradient,
    method: Annotated[str, typer.Option(help="ODE method, for example dopri5, tsit5 or bosh3.")] = TrainConfig.method,
    compile: Annotated[
        bool, typer.Option(help="Solve natively where the field, method and gradient allow it.")
    ] = TrainConfig.compile,
    tol: Annotated[float, typer.Option(help="rtol and atol while training.")] = TrainConfig.tol,
    eval_tol: Annotated[
        float, typer.Option(help="rtol and atol for likelihoods, samples and pictures.")
    ] = TrainConfig.eval_tol,
    scale: Annotated[
        str,
        typer.Option(help="Fixed first step: whiten (mean 0, covariance 1) or standardise (each column)."),
    ] = TrainConfig.scale,
    n_samples: Annotated[
        int, typer.Option(help="Points drawn from a built-in density, all three parts together.")
    ] = TrainConfig.n_samples,
    eval_every: Annotated[
        int, typer.Option(help="Steps between two validations, each with a checkpoint.")
    ] = TrainConfig.eval_every,
    seed: Annotated[int, typer.Option(help="Seed of data, split, weights and batches.")] = TrainConfig.seed,
    threads: Threads = None,
    plots: Annotated[bool, typer.Option(help="Draw pictures at the end.")] = True,
) -> int:
    """Train a continuous normalizing flow on points in the plane or on a table.

    The rows are split 80/10/10 into training, validation and test; the parameters that do best on the
    validation set are kept. Likelihoods are in nats, in the units of the data, beside those of a Gaussian
    with full covariance.
    """
    set_threads(threads)
    if resume is not None:
        if given := _given(context) - {"resume", "threads", "plots"}:
            raise InvalidArgument(
                f"`--resume {resume}` takes its data, folder and settings from the run, but {', '.join(sorted(given))} "
                f"was given; write `fastode train --resume {resume}` alone (`--threads` and `--no-plots` are allowed)"
            )
        folder = RunFolder(resume)
        config = folder.read_config()
    elif data is None:
        raise InvalidArgument(
            f"no data given; name a density ({', '.join(TOYS)}) or a file, or continue a run with `--resume FOLDER`"
        )
    else:
        config = TrainConfig(
            data=data if data in TOYS else str(Path(data).absolute()), n_samples=n_samples, steps=steps,
            batch=batch, lr=lr, weight_decay=weight_decay, clip=clip, hidden=_sizes(hidden), layer=layer,
            activation=activation, trace=trace, noise=noise, gradient=gradient, method=method,
            compile=compile, tol=tol, eval_tol=eval_tol, scale=scale, eval_every=eval_every, seed=seed,
        )  # fmt: skip
        folder = RunFolder(out or Path("runs") / (data if data in TOYS else Path(data).stem))
    points = load_data(data if resume is None and data else config.data, config.n_samples, config.seed)
    trainer = Trainer(config, points)
    if resume is None:
        folder.create(config)
    else:
        folder.load(trainer)
    return _run(trainer, folder, plots)


def _given(context: typer.Context) -> set[str]:
    """Names of the parameters that were written on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name.replace("_", "-") for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidArgument(
            f"`--hidden {text}`: it must be whole numbers with commas, for example `--hidden 64,64`"
        ) from None


def _run(trainer: Trainer, folder: RunFolder, plots: bool) -> int:
    """Train, evaluate, draw; the exit code."""
    data, config = trainer.data, trainer.config
    gaussian = gaussian_nll(data.train, data.test)
    n_parameters = sum(p.numel() for p in trainer.flow.parameters())
    console.print(
        f"[bold]{data.name}[/]: {len(data.train)} + {len(data.val)} + {len(data.test)} rows "
        f"(train, validation, test), {data.dim} columns; field with {n_parameters} parameters; "
        f"steps {trainer.step} to {config.steps}"
    )
    if config.batch > len(data.train):
        console.print(
            f"a batch of {config.batch} rows is more than there are: every step takes all {len(data.train)} "
            f"training rows{' (`--n-samples` draws more)' if config.data in TOYS else ''}"
        )
    try:
        finished = _train_with_bar(trainer, folder)
    except SolverError as error:
        kept = f"; the last checkpoint is {folder.checkpoint_file}" if folder.checkpoint_file.exists() else ""
        raise SolverError(f"step {trainer.step + 1}: {error}{kept}") from None
    if not finished:
        console.print(
            f"[yellow]stopped[/] after step {trainer.step} of {config.steps}; checkpoint saved. "
            "Continue with\n"
            f"  fastode train --resume {folder.path}"
        )
        return 130
    seconds = sum(m.get("seconds", 0.0) for m in folder.read_metrics())  # of all sittings, validations left out
    flow = trainer.best_flow()
    result = {
        "test_nll": held_out_nll(flow, data.test, config.eval_tol),
        "gaussian_nll": gaussian,
        "val_nll": trainer.best_val,
        "best_step": trainer.best_step,
        "steps": trainer.step,
        "train_seconds": round(seconds, 2),
    }
    folder.write_result(result)
    table = Table(box=None, padding=(0, 2))
    table.add_column("negative log-likelihood on test rows")
    table.add_column("nats per row", justify="right")
    table.add_row("flow", f"[bold]{result['test_nll']:.4f}[/]")
    table.add_row("Gaussian, full covariance", f"{gaussian:.4f}")
    console.print(table)
    console.print(
        f"trained for {seconds:.0f} s; best parameters from step {trainer.best_step}; results in [bold]{folder.path}[/]"
    )
    if plots:
        draw(folder, trainer.data, animate=True)
    return 0


def draw(folder: RunFolder, data: Data, animate: bool) -> None:
    """Draw the pictures of a run and list them."""
    from ..training.pictures import draw_album
    from .common import attempt, load_flow

    flow, _, _ = load_flow(folder)
    gaussian = gaussian_nll(data.train, data.test)
    with console.status("drawing"):
        album = draw_album(flow, data, folder.read_metrics(), gaussian, folder.path, animate)
        paths = attempt(lambda: list(album), f"pictures in {folder.path}")
    console.print(Panel("\n".join(str(p) for p in paths), title="pictures", title_align="left", expand=False))


def _served(engine: str, reason: str) -> str:
    """Which engine solves, in words."""
    # of a reason with a line of code the first line says enough
    return f"solved by the engine [bold]{engine}[/]" + (f" ({escape(reason.splitlines()[0])})" if reason else "")


def _train_with_bar(trainer: Trainer, folder: RunFolder) -> bool:
    columns = (
        TextColumn("training"), BarColumn(), MofNCompleteColumn(),
        TextColumn("loss [bold]{task.fields[loss]}[/]  validation [bold]{task.fields[val]}[/]"),
        TextColumn("NFE {task.fields[nfe]}  {task.fields[ms]} ms/step"),
        TimeRemainingColumn(),
    )  # fmt: skip
    blank: dict[str, Any] = {"loss": "-", "val": "-", "nfe": "-", "ms": "-"}
    # without a terminal there is no bar to redraw: a line per validation says the same
    live = console.is_terminal
    with stop_on_signals() as stop, Progress(*columns, console=console, disable=not live) as progress:
        task = progress.add_task("training", total=trainer.config.steps, completed=trainer.step, **blank)
        smooth: dict[str, float] = {}
        last: list[StepRecord] = []

        def on_step(record: StepRecord) -> None:
            for name, value in (("loss", record.loss), ("ms", 1000 * record.seconds)):
                smooth[name] = value + 0.95 * (smooth.get(name, value) - value)
            if not last:
                console.print(_served(*trainer.flow.served_by))
            last[:] = [record]
            progress.update(
                task, completed=record.step, loss=f"{smooth['loss']:.3f}", ms=f"{smooth['ms']:.0f}",
                nfe=f"{record.nfe_forward}+{record.nfe_backward}",
            )  # fmt: skip

        def on_validation(step: int, nll: float) -> None:
            progress.update(task, val=f"{nll:.3f}")
            if not live and last:
                record = last[-1]
                console.print(
                    f"step {step}/{trainer.config.steps}  loss {smooth['loss']:.4f}  validation {nll:.4f}  "
                    f"NFE {record.nfe_forward}+{record.nfe_backward}  {smooth['ms']:.0f} ms/step"
                )

        return fit(trainer, folder, stop, on_step, on_validation)
