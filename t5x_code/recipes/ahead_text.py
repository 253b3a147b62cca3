"""What `launch/compile_ahead.py` prints of a report."""

from collections.abc import Sequence

from t5x_code.recipes.compile_ahead import AheadReport

GIB, GB, MS = 2**30, 1e9, 1e3


def describe_report(report: AheadReport) -> str:
    """The whole report, one fact per line."""
    mesh = " x ".join(f"{name} {size}" for name, size in report.mesh.items())
    slices = f"{report.num_slices} slices of " if report.num_slices > 1 else ""
    devices = f"{report.num_devices} device{'s' if report.num_devices > 1 else ''}"
    tokens = report.batch_size * report.length
    lines = [
        f"target          {slices}{report.topology}: {devices}, mesh {mesh}",
        f"step            {report.parameters:,} parameters; {report.batch_size} rows x {report.length} = {tokens:,} "
        f"tokens, {report.microbatch_size} rows per device at a time",
        f"computed        remat {report.remat}, attention {report.attention}",
        f"compiled in     {report.compile_seconds:.0f} s",
    ]
    if report.memory is None or report.bounds is None:
        return "\n".join([*lines, f"does not fit    {report.refusal}"])
    memory, bounds = report.memory, report.bounds
    lines += [
        "memory of a device",
        f"  arguments     {memory.arguments / GIB:9.3f} GiB   the state's share and the batch's",
        f"  outputs       {memory.outputs / GIB:9.3f} GiB   beside the arguments that they replace",
        f"  temporary     {memory.temporary / GIB:9.3f} GiB",
        f"  peak          {memory.peak / GIB:9.3f} GiB   the compiler's figure for the fullest moment",
        f"  available     {memory.available / GIB:9.3f} GiB   XLA_CLIENT_MEM_FRACTION of a GPU, by itself 0.75",
        f"  headroom      {memory.headroom / GIB:9.3f} GiB   beyond what is needed",
        f"{'collectives of a step':<24}{'axes':<16}{'count':>8}{'GB sent inside':>16}{'GB sent across':>16}",
    ]
    for row in report.collectives:
        sent = f"{row.bytes_inside / GB:>16.3f}{row.bytes_across / GB:>16.3f}"
        lines.append(f"  {row.kind:<22}{row.axes:<16}{row.count:>8,}{sent}")
    network = f", network {bounds.network * MS:.1f}" if bounds.network else ""
    recomputed = f"{report.recomputed_flops_per_token:.4g} recomputed"
    lines += [
        f"FLOPs per token {report.flops_per_token:.4g} of the model, {recomputed}",
        f"lower bounds    compute {bounds.compute * MS:.1f} ms, memory {bounds.memory * MS:.1f}, "
        f"interconnect {bounds.interconnect * MS:.1f}{network}: no step under {bounds.step * MS:.1f} ms "
        f"({bounds.limit}), no MFU over {report.mfu_at_most:.0%}",
        *_describe_estimate(report),
        "fits" if report.fits else "does not fit    it needs more than is available",
    ]
    return "\n".join(lines)


def _describe_estimate(report: AheadReport) -> list[str]:
    if report.estimate is None:
        return []
    estimate = report.estimate
    return [
        f"estimate        {estimate.step * MS:.1f} ms, MFU {report.mfu_estimated:.0%}: by the compiler's cycles "
        f"{estimate.operations * MS:.1f}, attention kernels at peak {estimate.kernels * MS:.1f}, waiting for "
        f"collectives {estimate.waiting * MS:.1f}"
    ]


def describe_search(reports: Sequence[AheadReport]) -> str:
    """One line per remat policy, the best first."""
    if not reports:
        return (
            "nothing fits: one row per device is too much under every remat policy; take more devices or a tensor axis"
        )
    lines = [f"{'remat':<8}{'MICROBATCH_SIZE':>16}{'headroom GiB':>14}{'at least ms':>13}{'estimate ms':>13}"]
    for report in reports:
        seconds = report.bounds.step, report.estimate and report.estimate.step
        times = "".join(f"{'' if time is None else f'{time * MS:.1f}':>13}" for time in seconds)
        lines.append(f"{report.remat:<8}{report.microbatch_size:>16}{report.memory.headroom / GIB:>14.2f}{times}")
    best = reports[0]
    return "\n".join(
        [*lines, f"the shortest step: --gin.REMAT=\"'{best.remat}'\" --gin.MICROBATCH_SIZE={best.microbatch_size}"]
    )
