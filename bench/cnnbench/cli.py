"""The command line: `cnnbench info | check | time | train | compare | recommend | ...`.

What a command needs is imported when it runs, so that help and errors come at once.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from cnnbench.cases import CaseSet
    from cnnbench.recommend.recommendation import Recommendation
    from cnnbench.report.progress import ProgressBar
    from cnnbench.results import Row, Run

app = typer.Typer(
    help="Conv2D and MaxPool kernels: checked exactly, timed side by side, used in training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_PAGE = Path("report.html")
_OWN_FOLDER = Path(".cnnbench")
_RESULTS = Path("results")

Backends = Annotated[
    str, typer.Option(help="Comma-separated backends; all if not given.", metavar="A,B")
]
Trainers = Annotated[
    str,
    typer.Option(
        "--backends",
        help="Comma-separated backends, and programs that train; all if not given.",
        metavar="A,B",
    ),
]
Cases = Annotated[
    str, typer.Option(help="Comma-separated sets, files or descriptors.", metavar="CASES")
]
Threads = Annotated[
    str, typer.Option(help="Comma-separated thread counts; all cores if not given.", metavar="N,M")
]
Baseline = Annotated[str, typer.Option(help="What ratios are against.", metavar="BACKEND")]
Batch = Annotated[
    int | None, typer.Option(help="Batch of cases that have none of their own.", min=0)
]
Dtype = Annotated[str | None, typer.Option(help="float32 or float64, for all cases.")]
Json = Annotated[
    Path | None,
    typer.Option("--json", help="Write the rows here, too; a pipe gets them at the end."),
]
Save = Annotated[bool, typer.Option("--save", help="Keep the rows under results/, for good.")]
Machine = Annotated[
    str | None, typer.Option(help="The machine's name under results/; its processor if not given.")
]
Quick = Annotated[bool, typer.Option("--quick", help="A few rounds only: a look, no verdict.")]


@app.command()
def info(json_file: Json = None) -> None:
    """Show this machine, its measured ceilings, libraries, and which backends can run here."""
    from cnnbench.judging import limits
    from cnnbench.report import numbers, tables
    from cnnbench.workers.pool import WorkerPool
    from cnnkernels import host, registry

    console = _console()
    run = _run()
    _keep(run, "info", json_file, False, None, own=False)
    about = run.environment
    counts = list(dict.fromkeys((1, host.cores())))
    with _progress() as progress:
        progress.begin(len(counts) + 1)
        ceilings = {}
        for count in counts:
            progress.step(f"measuring ceilings, {count} threads")
            ceilings[count] = limits.measure_ceilings(count)
        progress.step("loading backends")
        with WorkerPool(registry.names(), host.cores()) as pool:
            backends = [
                (name, "can run here", pool.about(name)["description"])
                if name in pool.present
                else (name, *pool.absent[name])
                for name in registry.names()
            ]
    console.print(f"{about['cpu']}, {numbers.cores(about)}, {about['system']}")
    console.print(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    lines = []
    for count, measured in ceilings.items():
        if "reason" in measured:
            console.print(f"ceilings with {count} threads: not measured: {measured['reason']}")
            continue
        for dtype, rate in measured["flops"].items():
            lines.append((f"FMA {dtype}", str(count), f"{rate / 1e9:.0f} GFLOP/s"))
        for size, rate in measured["bandwidth"].items():
            if int(size) in (2**15, 2**19, 2**23, 2**28):
                what = f"memory, {numbers.bytes_(int(size))} in use"
                lines.append((what, str(count), f"{rate / 1e9:.0f} GB/s"))
    tables.show(console, tables.Sheet("Ceilings", ("what", "threads", "rate"), tuple(lines)))
    tables.show(
        console, tables.Sheet("Backends", ("backend", "state", ""), tuple(backends), texts=3)
    )
    run.environment["ceilings"] = {str(count): found for count, found in ceilings.items()}
    run.environment["backends"] = [list(line) for line in backends]
    run.write(finished=True)


@app.command()
def check(
    backends: Backends = "",
    cases: Cases = "digits",
    threads: Threads = "",
    batch: Batch = None,
    dtype: Dtype = None,
    json_file: Json = None,
    save: Save = False,
    machine: Machine = None,
) -> None:
    """Check backends on cases, exactly and in every direction; exit 1 if one is wrong or failed."""
    from cnnbench import checking
    from cnnbench.report import tables

    sets, names, counts = _cases(cases, batch, dtype), _backends(backends), _threads(threads)
    run = _run()
    _keep(run, "check", json_file, save, machine)
    with _recording(run), _progress() as progress:
        checking.check(run, sets, names, counts, progress)
    console = _console()
    for sheet in tables.check_sheets(run.rows):
        tables.show(console, sheet)
    _finish(run)


@app.command()
def time(
    backends: Backends = "",
    cases: Cases = "digits",
    baseline: Baseline = "torch-cpu",
    threads: Threads = "",
    batch: Batch = None,
    dtype: Dtype = None,
    quick: Quick = False,
    json_file: Json = None,
    save: Save = False,
    machine: Machine = None,
) -> None:
    """Check backends on cases, then time them side by side, in every direction."""
    from cnnbench import speed
    from cnnbench.budget import QUICK, Budget

    sets, counts = _cases(cases, batch, dtype), _threads(threads)
    names = _with_baseline(_backends(backends), baseline)
    run = _run()
    _keep(run, "time", json_file, save, machine)
    budget = QUICK if quick else Budget()
    with _recording(run), _progress() as progress, _folder() as caches:
        speed.time(run, sets, names, counts, baseline, budget, progress, caches)
    _show_times(_console(), run.rows, run.environment)
    _finish(run)


@app.command()
def train(
    backends: Trainers = "",
    arch: Annotated[
        str | None, typer.Option(help="digits, digits-deep or digits-strided.", metavar="NAME")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adam.", metavar="NAME")] = None,
    batchnorm: Annotated[
        bool | None,
        typer.Option("--batchnorm", help="Batch normalisation in place of biases."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Your own images, N,C,H,W, and labels, N: an npz file.")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast/--no-fast", help="10 epochs, or 40; --epochs overrules.")
    ] = True,
    epochs: Annotated[int | None, typer.Option(help="Times through the data.", min=1)] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step.", min=1)] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate; 0.05 with sgd, 0.001 with adam.", min=0)
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd.", min=0, max=1)] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of weights.", min=0)] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and order.", min=0)] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Start from these weights; not from drawn ones.")
    ] = None,
    save_weights: Annotated[
        Path | None, typer.Option(help="Folder for the weights learnt, a file a backend.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="digits, notebook-numpy or notebook-torch.")
    ] = "digits",
    full: Annotated[
        bool, typer.Option("--full", help="Train slow backends to the end as well.")
    ] = False,
    plan: Annotated[
        Path | None, typer.Option(help="Train 'auto', too, which follows this plan.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Follow the plan even if another machine made it.")
    ] = False,
    baseline: Baseline = "torch-cpu",
    threads: Threads = "",
    quick: Quick = False,
    json_file: Json = None,
    save: Save = False,
    machine: Machine = None,
) -> None:
    """Train a small CNN on backends and by programs, in turns: what it took, what it gave."""
    import dataclasses

    from cnnbench import results, trainings
    from cnnbench.budget import QUICK, Budget
    from cnnbench.digits import data as images
    from cnnbench.digits.recipes import RECIPES
    from cnnbench.digits.training import start
    from cnnbench.report import tables
    from cnnkernels.registry import AUTO

    if recipe not in RECIPES:
        raise typer.BadParameter(f"expected one of {', '.join(RECIPES)}, got {recipe!r}")
    chosen = RECIPES[recipe]
    given = {
        "architecture": arch,
        "optimizer": optimizer,
        "batchnorm": batchnorm,
        "data": None if data is None else str(data.resolve()),
        "batch_size": batch,
        "learning_rate": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "seed": seed,
        "weights": None if weights is None else str(weights.resolve()),
    }
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if chosen.backend and (changes or plan is not None):
        raise typer.BadParameter(f"recipe {recipe} is as it is; only --epochs may differ")
    if force and plan is None:
        raise typer.BadParameter("--force is for a plan: name one by --plan")
    changes["epochs"] = epochs or (10 if fast else 40)
    options = dataclasses.replace(chosen.options, **_training_options(changes))
    start(options)  # complains of images and weights before anything is measured
    scale = images.remark(options.data)
    if scale is not None:
        typer.echo(scale, err=True)
    chosen = dataclasses.replace(chosen, options=options)
    counts = _threads(threads)
    console = _console()
    run = _run()
    if save_weights is not None:
        results.claim(save_weights / "weights.npz")
    if chosen.backend:
        if backends and backends != chosen.backend:
            raise typer.BadParameter(f"recipe {recipe} is for {chosen.backend} alone")
        _keep(run, "train", json_file, save, machine)
        with _recording(run), _progress() as progress:
            trainings.train_alone(run, recipe, chosen, counts[0], progress)
        for row in run.rows:
            if row.outcome == "ok":
                title = f"{chosen.description}, {row.seconds:.2f} s"
                tables.show(console, tables.epochs_sheet(title, row.details["epochs"]))
    else:
        names = _with_baseline(_trainers(backends), baseline)
        if plan is not None and AUTO not in names:
            names.append(AUTO)
        budget = QUICK if quick else Budget()
        with _hearing(run) as heard, _following(plan, force, counts):
            _keep(run, "train", json_file, save, machine)
            with _recording(run), _progress() as progress, _folder() as caches:
                trainings.train(
                    run, names, counts, baseline, chosen, full, budget, progress, caches
                )
        for count in counts:
            tables.show(console, tables.train_sheet([r for r in run.rows if r.threads == count]))
        _tell(console, heard)
    if save_weights is not None:
        typer.echo(
            f"weights: {', '.join(map(str, trainings.save_weights(save_weights, run.rows)))}"
        )
    _finish(run)


def _training_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return what was given, with what follows from it.

    Raises
    ------
    BadParameter
        If a name is unknown, or momentum is asked of an optimizer that has none to set.
    """
    from cnnbench.digits.network import ARCHITECTURES
    from cnnbench.digits.optimizers import LEARNING_RATES

    for key, option, known in (
        ("architecture", "--arch", ARCHITECTURES),
        ("optimizer", "--optimizer", LEARNING_RATES),
    ):
        if key in given and given[key] not in known:
            raise typer.BadParameter(
                f"{option}: expected one of {', '.join(known)}, got {given[key]!r}"
            )
    optimizer = given.get("optimizer", "sgd")
    if optimizer == "adam" and "momentum" in given:
        raise typer.BadParameter("--momentum is of sgd; adam has none to set")
    return {"learning_rate": LEARNING_RATES[optimizer]} | given if optimizer == "adam" else given


@app.command()
def compare(
    backends: Trainers = "",
    baseline: Baseline = "torch-cpu",
    threads: Annotated[
        int | None, typer.Option(help="Thread count; all cores if not given.", min=1)
    ] = None,
    quick: Quick = False,
    output: Annotated[Path, typer.Option(help="The page of all figures.")] = _PAGE,
    json_file: Json = None,
    save: Save = False,
    machine: Machine = None,
) -> None:
    """Check, time the digits layers, train on every backend, and say which to train with here.

    The layers are timed on one thread, too, in a few rounds: the page shows what more threads gain.
    """
    from cnnbench import results, speed, trainings
    from cnnbench.budget import QUICK, SHORT
    from cnnbench.digits.recipes import RECIPES
    from cnnbench.digits.trainers import PROGRAMS
    from cnnbench.report import offline, page, tables
    from cnnbench.report.answer import answer, evidence

    results.claim(output)
    names = _with_baseline(_trainers(backends), baseline)
    kernels = [name for name in names if name not in PROGRAMS]
    (count,) = _threads("" if threads is None else str(threads))
    console = _console()
    run = _run()
    _keep(run, "compare", json_file, save, machine)
    budget = QUICK if quick else SHORT
    digits, recipe = _cases("digits", None, None), RECIPES["digits"]
    with _recording(run), _progress() as progress, _folder() as caches:
        speed.time(run, digits, kernels, [count], baseline, budget, progress, caches)
        if count > 1:
            speed.time_on_one_thread(run, digits, baseline, budget, progress, caches)
        trainings.train(run, names, [count], baseline, recipe, False, budget, progress, caches)
    rows = [row for row in run.rows if row.threads == count]
    for sheet in tables.check_sheets(_layers(rows)):
        tables.show(console, sheet)
    _show_times(console, rows, run.environment)
    tables.show(console, tables.train_sheet(rows))
    floor = run.environment["aa_floor"][str(count)]
    console.print(answer(rows, floor), style="bold", highlight=False)
    for line in evidence(rows, floor):
        console.print(f"  {line}", highlight=False)
    try:
        page.write(run, output, command=_command())
        console.print(f"every figure: {output}", highlight=False, soft_wrap=True)
    except offline.PageError as error:
        typer.echo(f"no page of figures: {error}", err=True)
    _finish(run)


@app.command()
def recommend(
    model: Annotated[
        str,
        typer.Argument(
            help="digits, digits-deep or digits-strided; another set, file or descriptor; or "
            "package.module:function, which returns a torch.nn.Module."
        ),
    ],
    input_shape: Annotated[
        str | None,
        typer.Option(
            "--input", help="Of a PyTorch model: the shape of a batch.", metavar="N,C,H,W"
        ),
    ] = None,
    backends: Backends = "",
    exclude: Annotated[
        str, typer.Option(help="Comma-separated backends to leave out.", metavar="A,B")
    ] = "",
    pin: Annotated[
        list[str] | None,
        typer.Option(
            help="A layer's backend, whatever is measured: name or pattern; may be repeated.",
            metavar="LAYER=BACKEND",
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(help="Largest error allowed, in units of what rounding can make.", min=0),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Only backends that promise the same bits.")
    ] = False,
    baseline: Baseline = "torch-cpu",
    threads: Annotated[
        int | None, typer.Option(help="Thread count; all cores if not given.", min=1)
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step.", min=1)] = None,
    output: Annotated[Path, typer.Option(help="Where the plan goes.")] = Path("plan.json"),
    quick: Annotated[bool, typer.Option("--quick", help="Measure a third as long.")] = False,
    json_file: Json = None,
    save: Save = False,
    machine: Machine = None,
) -> None:
    """Choose a backend for each layer of a network to train, and write it down as a plan."""
    import dataclasses

    from cnnbench import results
    from cnnbench.budget import Budget
    from cnnbench.digits import data as digits
    from cnnbench.digits.network import ARCHITECTURES
    from cnnbench.digits.options import Options
    from cnnbench.digits.training import planned
    from cnnbench.recommend import choose, networks
    from cnnbench.timing import LEAST_ROUNDS

    left_out = tuple(_backends(exclude)) if exclude else ()
    names = _with_baseline(_backends(backends), baseline)
    if set(names) <= set(left_out):
        raise typer.BadParameter("--exclude leaves no backend to choose from")
    wishes = choose.Wishes(max_error, deterministic, _pins(pin or []), left_out)
    (count,) = _threads("" if threads is None else str(threads))
    trained: Options | list[int] | None = None
    if ":" in model:
        if input_shape is None:
            raise typer.BadParameter("a PyTorch model needs --input, such as --input 8,3,224,224")
        trained = networks.shape_of(input_shape, batch)
        network = choose.capture(model, trained, count)
    elif input_shape is not None:
        raise typer.BadParameter(f"--input is for PyTorch models, package.module:function; {model}")
    elif model in ARCHITECTURES:
        images = len(digits.load().train_labels)
        if batch is not None and batch > images:
            raise typer.BadParameter(f"--batch: the digits have {images} images to train with")
        trained = Options(architecture=model, batch_size=batch or Options().batch_size)
        network = networks.of_architecture(planned(trained))
    else:
        network = networks.of_cases(_cases(model, batch, None))
    results.claim(output)
    run = _run()
    _keep(run, "recommend", json_file, save, machine)
    budget = Budget(seconds=2.0, call_seconds=choose.budget(network))
    if quick:
        budget = dataclasses.replace(budget, rounds=LEAST_ROUNDS, seconds=0.7)
    console = _console()
    with _hearing(run) as heard, _recording(run), _progress() as progress, _folder() as caches:
        found = choose.recommend(
            run, network, trained, names, count, baseline, wishes, budget, progress, caches
        )
        run.environment["plan_file"] = str(output)
        older = results.set_aside(output)
        found.plan.save(output)
    _show_recommendation(console, found, output)
    _tell(console, heard)
    kept = "" if older is None else f"; the older one is {older} now"
    typer.echo(f"plan: {output}{kept}")
    _finish(run)


def _show_recommendation(console: Console, found: Recommendation, plan: Path) -> None:
    from cnnbench.report import recommendation, tables

    for sheet in recommendation.sheets(found):
        tables.show(console, sheet)
    console.print(found.answer, style="bold", highlight=False)
    for line in recommendation.how_to_follow(found, plan):
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def _pins(texts: list[str]) -> dict[str, str]:
    from cnnkernels import registry

    pins = {}
    for text in texts:
        layer, equals, backend = text.partition("=")
        if not (layer and equals and backend):
            raise typer.BadParameter(f"--pin: expected LAYER=BACKEND, got {text!r}")
        registry.require_known(backend)
        pins[layer] = backend
    return pins


@app.command()
def selftest(
    threads: Threads = "", baseline: Baseline = "torch-cpu", json_file: Json = None
) -> None:
    """Let the suite judge itself: broken kernels that it must catch, and the A/A floor."""
    import dataclasses

    from cnnbench import checking
    from cnnbench.budget import Budget
    from cnnbench.judging.floor import measure_floor
    from cnnbench.report import numbers, tables
    from cnnbench.workers.pool import WorkerPool, baseline_for
    from cnnkernels import conformance
    from cnnkernels.descriptor import Case, parse

    console = _console()
    _backends(baseline)
    (count, *_) = _threads(threads)
    problems = [parse(text) for text in conformance.CORNER]
    lines, missed = [], []
    run = _run()
    _keep(run, "selftest", json_file, False, None, own=False)
    with _recording(run), _progress() as progress:
        progress.begin(len(conformance.BROKEN) + 1)
        for name, broken in conformance.BROKEN.items():
            progress.step(f"checking {name}")
            found = [conformance.check(broken, problem) for problem in problems]
            caught = [result for result in found if result.outcome in ("wrong", "failed")]
            for problem, result in zip(problems, found, strict=True):
                run.rows += checking.rows_of(Case(problem), name, 1, dataclasses.asdict(result))
            if caught:
                lines.append((broken.description, f"{len(caught)} of {len(found)}", "caught"))
            else:
                missed.append(name)
                lines.append((broken.description, f"0 of {len(found)}", "MISSED"))
        progress.step("A/A floor")
        with WorkerPool([baseline, "numpy"], count) as pool:
            base = baseline_for(pool, baseline)
        probes = _cases("digits", None, None)
        floor = measure_floor(base, count, probes[0].cases, Budget())
        run.environment["aa_floor"] = {str(count): floor}
    tables.show(
        console,
        tables.Sheet("Broken kernels", ("what it does", "cases", ""), tuple(lines)),
    )
    console.print(f"{len(lines) - len(missed)} of {len(lines)} broken kernels caught")
    console.print(
        f"A/A floor: two processes of {base} differ by up to {numbers.floor(floor)} here, "
        f"{count} threads"
    )
    if missed:
        raise typer.Exit(1)


@app.command()
def show(file: Annotated[Path, typer.Argument(help="A file that a command has written.")]) -> None:
    """Show the tables of a saved run."""
    from cnnbench import results
    from cnnbench.recommend import recommendation
    from cnnbench.report import tables

    run = results.read(file)
    console = _console()
    where = run.environment
    console.print(f"{' '.join(where['command'])}: {where['cpu']}, {where['started']}")
    recommended = recommendation.kept(run)
    if recommended is not None:
        _show_recommendation(console, recommended, Path(where.get("plan_file", "plan.json")))
        _tell(console, where.get("warnings", []))
        return
    if any(row.seconds is None or row.op != "train" for row in run.rows):
        for sheet in tables.check_sheets(_layers(run.rows)):
            tables.show(console, sheet)
    _show_times(console, run.rows, run.environment)
    for count in dict.fromkeys(row.threads for row in run.rows if row.op == "train"):
        tables.show(console, tables.train_sheet([r for r in run.rows if r.threads == count]))


@app.command()
def report(
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A saved run; the newest of .cnnbench/ if not given."),
    ] = None,
    output: Annotated[Path, typer.Option(help="The page.")] = _PAGE,
    against: Annotated[
        Path | None, typer.Option(help="Another saved run, to be shown beside it.")
    ] = None,
) -> None:
    """Write a run as one HTML page with every figure, which opens offline."""
    from cnnbench import results
    from cnnbench.report import page

    results.claim(output)
    run = results.read(source or results.newest(_OWN_FOLDER))
    page.write(run, output, None if against is None else results.read(against), _command())
    typer.echo(f"{output}: {len(run.rows)} rows of {run.paths[0]}")


@app.command()
def history(
    output: Annotated[Path, typer.Option(help="The page.")] = Path("history.html"),
    results: Annotated[
        Path | None, typer.Option(help="asv's results, if not this checkout's.")
    ] = None,
) -> None:
    """Write the performance history that asv measured as one HTML page, which opens offline."""
    from cnnbench.history import asv, page, series
    from cnnbench.results import claim

    claim(output)
    found = series.read(asv.root(), results)
    page.write(found, output)
    regressions = len(found.regressions)
    typer.echo(
        f"{output}: {len(found.series)} curves over {len(found.commits)} commits, "
        f"{sum(len(one.steps) for one in found.series)} steps, {regressions} of them regressions"
    )


# --------------------------------------------------------------------------------------------


def _console() -> Console:
    """Return what is printed on: names as they are, with brackets and colons that are no markup."""
    from rich.console import Console

    return Console(markup=False, emoji=False)


def _layers(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.op != "train" and row.problem]


def _command() -> str:
    """Return the command line, to be pasted into a shell."""
    import shlex

    return shlex.join(["cnnbench", *sys.argv[1:]])


def _show_times(console: Console, rows: list[Row], environment: dict[str, Any]) -> None:
    from cnnbench.report import numbers, tables

    timed = [row for row in rows if row.op != "train"]
    if not any(row.seconds is not None for row in timed):
        return
    for sheet in tables.time_sheets(timed):
        tables.show(console, sheet)
    tables.show(console, tables.first_call_sheet(timed))
    for count, floor in environment.get("aa_floor", {}).items():
        ceilings = environment.get("ceilings", {}).get(count, {})
        peak = ceilings.get("flops", {}).get("float32")
        fma = f"FMA peak {numbers.significant(peak / 1e9)} GFLOP/s, " if peak else ""
        console.print(f"{count} threads: {fma}A/A floor {numbers.floor(floor)}", highlight=False)
    console.print()


def _cases(text: str, batch: int | None, dtype: str | None) -> list[CaseSet]:
    from cnnbench import cases
    from cnnkernels.contract import dtype_name

    if dtype is not None:
        try:
            dtype = dtype_name(dtype)
        except TypeError as error:
            raise typer.BadParameter(str(error)) from None
    return cases.load(text, batch, dtype)


def _backends(text: str) -> list[str]:
    from cnnkernels import registry

    return _named(text, registry)


def _trainers(text: str) -> list[str]:
    from cnnbench.digits import trainers

    return _named(text, trainers)


def _named(text: str, those: Any) -> list[str]:
    """Return the names in a text, or all there are: of `registry`, or of `trainers`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        those.require_known(name)
    return list(dict.fromkeys(names)) or list(those.names())


def _with_baseline(names: list[str], baseline: str) -> list[str]:
    """Return the backends with the baseline among them: a ratio is measured side by side."""
    from cnnkernels import registry

    registry.require_known(baseline)
    return names if baseline in names else [*names, baseline]


def _threads(text: str) -> list[int]:
    from cnnkernels import host

    try:
        counts = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        counts = [0]
    if any(not 1 <= count <= 1024 for count in counts):
        raise typer.BadParameter(f"threads: expected numbers from 1, such as 1,2; got {text!r}")
    return list(dict.fromkeys(counts)) or [host.cores()]


def _run() -> Run:
    from cnnbench import machine
    from cnnbench.results import Run

    return Run(machine.environment(["cnnbench", *sys.argv[1:]]))


def _keep(
    run: Run,
    command: str,
    json_file: Path | None,
    save: bool,
    machine: str | None,
    own: bool = True,
) -> None:
    """Decide where a run's rows are kept, before anything is measured."""
    from cnnbench import results

    if json_file is not None:
        run.paths.append(results.claim(json_file))
    if own:
        run.paths.insert(0, results.fresh_path(_OWN_FOLDER, command))
    if save:
        if machine is not None:
            run.environment["machine"] = results.slug(machine)
        folder = _RESULTS / run.environment["machine"]
        run.paths.append(results.fresh_path(folder, command))
    run.write()


@contextlib.contextmanager
def _recording(run: Run) -> Iterator[None]:
    """Write what was measured, whatever ends it."""
    import datetime

    from cnnbench import machine

    def finished() -> None:
        now = datetime.datetime.now(datetime.UTC)
        run.environment["finished"] = now.isoformat(timespec="seconds")
        run.environment["load_after"] = machine.load_average()
        run.write(finished=True)

    try:
        yield
    except KeyboardInterrupt as interrupt:
        _ignore_signals()  # a second one would lose what the first is to keep
        run.environment["interrupted"] = True
        finished()
        kept = f"the {len(run.rows)} rows measured so far are in {', '.join(map(str, run.paths))}"
        with contextlib.suppress(OSError):  # a terminal that was closed takes no more words
            typer.echo(f"interrupted: {kept}" if run.paths else "interrupted", err=True)
        raise typer.Exit(128 + _number_of(interrupt)) from None
    except BaseException:
        with contextlib.suppress(OSError):
            finished()
        raise
    finished()


@contextlib.contextmanager
def _following(file: Path | None, force: bool, threads: Sequence[int]) -> Iterator[None]:
    """Let workers that start meanwhile follow a plan; what it was not made for is said here once.

    Raises
    ------
    PlanError
        If it cannot be followed here.
    """
    import dataclasses
    import os
    import warnings

    from cnnkernels import host
    from cnnkernels import plan as plans

    if file is None:
        yield
        return
    followed = plans.load(file, force=force)
    here = dataclasses.replace(
        followed, machine=host.fingerprint(), versions=host.versions(*plans.LIBRARIES)
    )
    if followed.machine != here.machine:
        warnings.warn(f"{file}: made on another machine", plans.PlanWarning, stacklevel=2)
    if list(threads) != [followed.threads]:
        counts = ", ".join(map(str, threads))
        warnings.warn(
            f"{file}: measured with {followed.threads} threads, here {counts}",
            plans.PlanWarning,
            stacklevel=2,
        )
    before = os.environ.get(plans.VARIABLE)
    with _folder() as folder:
        here.save(folder / file.name)
        os.environ[plans.VARIABLE] = str(folder / file.name)
        try:
            yield
        finally:
            del os.environ[plans.VARIABLE]
            if before is not None:
                os.environ[plans.VARIABLE] = before


@contextlib.contextmanager
def _hearing(run: Run) -> Iterator[list[str]]:
    """Yield a list that takes what plans warn of, here and in workers; the run keeps it."""
    import warnings

    from cnnkernels.plan import PlanWarning

    heard: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def showwarning(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, PlanWarning):
                show(message, category, *where, **more)
            elif str(message) not in heard:
                heard.append(str(message))
                run.environment["warnings"] = heard

        warnings.showwarning = showwarning
        warnings.simplefilter("always", PlanWarning)
        yield heard


def _tell(console: Console, heard: Sequence[str]) -> None:
    """Print what plans have warned of, the first of many alone."""
    most = 3
    for text in heard[:most]:
        console.print(f"- {text}", style="dim", highlight=False)
    if len(heard) > most:
        console.print(f"- and {len(heard) - most} more of the kind", style="dim", highlight=False)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Yield a folder that is gone when the command ends."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="cnnbench-") as name:
        yield Path(name)


@contextlib.contextmanager
def _progress() -> Iterator[ProgressBar]:
    from cnnbench.report.progress import ProgressBar

    with ProgressBar() as bar:
        yield bar


def _finish(run: Run) -> None:
    """Say where the rows are; exit 1 if a backend was wrong or failed."""
    typer.echo(f"rows: {', '.join(map(str, run.paths))}")
    if any(row.outcome in ("wrong", "failed") for row in run.rows):
        raise typer.Exit(1)


class _Stopped(KeyboardInterrupt):
    """A signal that ends a command as Ctrl-C does; its argument is the signal's number."""


_ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command as Ctrl-C does."""


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """Let signals that would end the process interrupt the block, as Ctrl-C does.

    One that is ignored stays ignored: nohup and its like start a command so.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDING)}
    for number in _ENDING:
        if before[number] is signal.SIG_DFL:
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _: object) -> None:
    for other in _ENDING:  # one is enough: the end of a terminal may send several
        signal.signal(other, signal.SIG_IGN)
    raise _Stopped(number)


def _ignore_signals() -> None:
    for number in (signal.SIGINT, *_ENDING):
        signal.signal(number, signal.SIG_IGN)


def _number_of(interrupt: KeyboardInterrupt) -> int:
    """Return the number of the signal that an interrupt stands for."""
    return int(interrupt.args[0]) if isinstance(interrupt, _Stopped) else signal.SIGINT


def main() -> None:
    """Run the command line; an error that a person can mend is one sentence, and exit 2."""
    from cnnbench.cases import CaseError
    from cnnbench.digits.data import DataError
    from cnnbench.history.asv import HistoryError
    from cnnbench.recommend.networks import ModelError
    from cnnbench.report.offline import PageError
    from cnnbench.results import ResultsError
    from cnnkernels.files import WriteError
    from cnnkernels.plan import PlanError
    from cnnkernels.registry import UnknownBackendError

    expected: tuple[type[BaseException], ...] = (
        CaseError,
        DataError,
        HistoryError,
        ModelError,
        PageError,
        PlanError,
        ResultsError,
        UnknownBackendError,
        WriteError,
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name need not be text that the terminal takes. Standard error prints any.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _stopping():
            app()
    except expected as error:
        typer.echo(f"cnnbench: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
