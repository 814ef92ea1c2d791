"""Test the suite itself."""

from __future__ import annotations

import typer

from cnnbench.cli.options import Baseline, Json, Threads, backend_names, case_sets, thread_counts
from cnnbench.cli.runs import keep, new_run, progress_bar, recording
from cnnbench.cli.tables import console_of_text, show_busy


def selftest(
    threads: Threads = "", baseline: Baseline = "torch-cpu", json_file: Json = None
) -> None:
    """Test the suite itself: it must catch every broken kernel.

    It also measures the A/A floor: how much two identical runs differ here.
    """
    import dataclasses

    from cnnbench import checking
    from cnnbench.budget import Budget
    from cnnbench.judging.floor import measure_floor
    from cnnbench.report import numbers, tables
    from cnnbench.workers.pool import WorkerPool, baseline_for
    from cnnkernels import conformance
    from cnnkernels.descriptor import Case, parse

    console = console_of_text()
    backend_names(baseline)
    (count, *_) = thread_counts(threads)
    problems = [parse(text) for text in conformance.CORNER]
    lines, missed = [], []
    run = new_run()
    keep(run, "selftest", "", json_file, False, None, own=False)
    with recording(run), progress_bar() as progress:
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
        probes = case_sets("digits", None, None)
        floor = measure_floor(base, count, probes[0].cases, Budget())
        run.environment["aa_floor"] = {str(count): floor}
    tables.show(
        console,
        tables.Sheet("Broken kernels", ("what it does", "cases", ""), tuple(lines)),
    )
    console.print(f"{len(lines) - len(missed)} of {len(lines)} broken kernels caught")
    console.print(
        f"A/A floor: two processes of {base} differ by up to {numbers.floor(floor)} here, "
        f"{tables.threads_in_words(count)}"
    )
    show_busy(console, run.environment)
    if missed:
        raise typer.Exit(1)
