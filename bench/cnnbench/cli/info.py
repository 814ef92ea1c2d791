"""Show the machine, its FMA peak and memory bandwidth, and the backends."""

from __future__ import annotations

from cnnbench.cli.options import Json
from cnnbench.cli.runs import keep, new_run, progress_bar
from cnnbench.cli.tables import console_of_text, show_busy


def info(json_file: Json = None) -> None:
    """Show this machine, its libraries, and which backends run here.

    It measures the machine's ceilings: FMA peak and memory bandwidth.
    """
    from cnnbench import cpu_time
    from cnnbench.judging import limits
    from cnnbench.report import numbers, tables
    from cnnbench.words import counted
    from cnnbench.workers.pool import WorkerPool
    from cnnkernels import host, registry

    console = console_of_text()
    run = new_run()
    keep(run, "info", "", json_file, False, None, own=False)
    about = run.environment
    counts, before = list(dict.fromkeys((1, host.cores()))), cpu_time.seconds()
    with progress_bar() as progress:
        progress.begin(len(counts) + 1)
        ceilings = {}
        for count in counts:
            progress.step(f"measuring ceilings, {counted(count, 'thread')}")
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
    for name, value in about["numba_settings"].items():
        console.print(f"{name}={value}", markup=False)
    lines = []
    for count, measured in ceilings.items():
        if "reason" in measured:
            console.print(
                f"ceilings with {counted(count, 'thread')} not measured: {measured['reason']}"
            )
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
    run.environment["taken_by_others"] = cpu_time.taken_by_others(before, cpu_time.seconds())
    show_busy(console, run)
    run.write(finished=True)
