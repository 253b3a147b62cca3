"""Reads a compiled program's text: which collectives it runs, over which axes of the mesh, how often, how many bytes.

The text is XLA's optimized HLO of one device.

Bytes are what one device must send at least, whatever the algorithm. For a group of n devices, each of which ends up
with R bytes, that is (n - 1) / n x R for all-gather and all-to-all, twice as much for all-reduce, and R for a
permutation. For reduce-scatter it is (n - 1) / n x R too, but R is what each device puts in.
"""

import dataclasses
import math
import re
from collections import Counter

import numpy as np
from jax.sharding import Mesh

from t5x_code.parallel.program_text import INSTRUCTION, count_runs, split_computations

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
ITEM_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f8e4m3fn": 1, "f8e5m2": 1}  # the others end with their bits

_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CHANNEL = re.compile(r"channel_id=(\d+)")
# Between slices of TPUs a collective is a send and a receive of each device: {slices}x{devices of a slice}.
_MEGASCALE = re.compile(r'_xla_megascale_target="\{([\d,]+)\}x.*_xla_megascale_transfer_type="(\w+)"')
_CHAIN = re.compile(r"frontend_attributes=\{[^}]*chain_id=")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of a program of one kind over the same axes."""

    kind: str  # of `KINDS`
    axes: str  # of the mesh, as data+fsdp
    count: int  # per run of the program
    bytes_inside: int  # that a device sends within its slice (TPU) or node (GPU)
    bytes_across: int  # that a device's share sends to other slices or nodes


@dataclasses.dataclass(frozen=True)
class Operation:
    """One collective instruction."""

    kind: str
    groups: tuple[tuple[int, ...], ...]  # of places in the mesh, flat; of a permutation, (from, to) each
    num_bytes: int  # R of the module's docstring
    times: int  # how often it runs
    result_shapes: tuple[tuple[int, ...], ...]
    source: str  # the name of the operation that it was made for
    is_waited_for: bool  # nothing runs beside it


def read_operations(text: str, num_devices: int) -> list[Operation]:
    """Every collective of a compiled program."""
    computations, entry = split_computations(text)
    times = count_runs(computations, entry)
    operations = []
    seen_chains = set()
    for name, lines in computations.items():
        for line in lines if times[name] else ():
            match = INSTRUCTION.match(line)
            kind = _kind(match.group(3)) if match else None
            if match and match.group(3) == "send" and (between := _MEGASCALE.search(line)):
                operations.append(_between_slices(match.group(2), between, num_devices, times[name]))
            if kind is None:
                continue
            if _CHAIN.search(line):  # one collective spread over several fusions: each repeats it
                channel = _CHANNEL.search(line).group(1)
                if channel in seen_chains:
                    continue
                seen_chains.add(channel)
            if name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            groups = _groups(line, num_devices)
            shapes = _result(match.group(2), match.group(3))
            num_bytes = sum(size for size, _ in shapes)
            if kind == "reduce-scatter" and match.group(3) == "reduce-scatter":
                num_bytes *= len(groups[0])  # its result is a share of what went in
            source = re.search(r'op_name="([^"]*)"', line)
            dims = tuple(shape for _, shape in shapes)
            name_of_source = source.group(1) if source else ""
            waits = not (_CHAIN.search(line) or match.group(3).endswith("-start"))
            operations.append(Operation(kind, groups, num_bytes, times[name], dims, name_of_source, waits))
    return operations


def _between_slices(shape: str, between: re.Match, num_devices: int, times: int) -> Operation:
    """A device and those at its place in the other slices, which lie one after another in the mesh."""
    num_slices = len(between.group(1).split(","))
    size = num_devices // num_slices
    groups = tuple(tuple(range(place, num_devices, size)) for place in range(size))
    (num_bytes, dims), *_ = _result(shape, "send")
    return Operation(between.group(2).lower().replace("_", "-"), groups, num_bytes, times, (dims,), "", False)


def summarise(operations: list[Operation], mesh: Mesh, island_of: list[int]) -> list[Collective]:
    """Sums by kind and axes, the largest first.

    Args:
        operations: of `read_operations`.
        mesh: the program's.
        island_of: of each place in the mesh, flat: the slice or node of its device.
    """
    counts: Counter = Counter()
    inside: Counter = Counter()
    across: Counter = Counter()
    for operation in operations:
        key = operation.kind, _axes(operation, mesh)
        sent_inside, sent_across = _bytes_sent(operation, island_of)
        counts[key] += operation.times
        inside[key] += operation.times * sent_inside
        across[key] += operation.times * sent_across
    rows = [Collective(*key, counts[key], round(inside[key]), round(across[key])) for key in counts]
    return sorted(rows, key=lambda row: -(row.bytes_inside + row.bytes_across))


def _kind(opcode: str) -> str | None:
    opcode = opcode.removesuffix("-start")
    return opcode if opcode in KINDS else None


def _result(shape: str, opcode: str) -> list[tuple[int, tuple[int, ...]]]:
    """(bytes, dimensions) of the arrays that an instruction makes; of those a `-start` lists, the results alone."""
    arrays = []
    for dtype, dims in _SHAPE.findall(re.sub(r"\{[^{}]*\}", "", shape)):
        sizes = tuple(int(dim) for dim in dims.split(",") if dim)
        bits = re.search(r"\d+$", dtype)
        item = ITEM_BYTES.get(dtype) or (int(bits.group()) // 8 if bits else 0)
        arrays.append((math.prod(sizes) * item, sizes))
    if opcode in ("all-gather-start", "all-to-all-start"):  # (operands, results)
        return arrays[len(arrays) // 2 :]
    if opcode == "reduce-scatter-start":  # what goes in is what counts
        return arrays[: len(arrays) // 2]
    if opcode == "collective-permute-start":  # (operand, result, two counters)
        return arrays[1:2]
    return arrays


def _groups(line: str, num_devices: int) -> tuple[tuple[int, ...], ...]:
    """Parses each of the ways in which XLA writes groups of devices."""
    if match := re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", line):
        return _listed(match.group(1))
    if match := re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", line):
        return _listed(match.group(1))
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=(\S+?), ", line):
        return tuple(map(tuple, _iota(match.group(2)).reshape(_ints(match.group(1))).tolist()))
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\S+?)\))? \{([^}]*)\}", line):
        return _of_mesh(*match.groups())
    return (tuple(range(num_devices)),)


def _listed(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(_ints(group)) for group in re.findall(r"\{([\d,]+)\}", text))


def _iota(text: str) -> np.ndarray:
    """[16] or [2,4]T(1,0) or [2,2]<=[4]: numbers from 0 on, perhaps transposed."""
    shape, _, source = text.partition("<=")
    if source:
        return _iota(source).reshape(_ints(shape.strip("[]")))
    match = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    shape = _ints(match.group(1))
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return numbers.transpose(_ints(match.group(2))) if match.group(2) else numbers


def _of_mesh(axes: str, device_ids: str | None, over: str) -> tuple[tuple[int, ...], ...]:
    """mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_1'}; an axis may be a part, 'axis_1':(1)2."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    places = _iota(device_ids).reshape(-1) if device_ids else np.arange(math.prod(sizes.values()))
    dims, chosen = [], []
    parts = {name: (int(before), int(size)) for name, before, size in re.findall(r"'([^']+)':\((\d+)\)(\d+)", over)}
    whole = set(re.findall(r"'([^']+)'", over)) - parts.keys()
    for name, size in sizes.items():
        before, middle = parts.get(name, (1, size))
        split = (before, middle, size // (before * middle))
        chosen += [False, name in whole or name in parts, False]
        dims += split
    grid = places.reshape(dims)
    order = [dim for dim, is_chosen in enumerate(chosen) if not is_chosen]
    order += [dim for dim, is_chosen in enumerate(chosen) if is_chosen]
    size = math.prod(dim for dim, is_chosen in zip(dims, chosen, strict=True) if is_chosen)
    return tuple(map(tuple, grid.transpose(order).reshape(-1, size).tolist()))


def _ints(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _axes(operation: Operation, mesh: Mesh) -> str:
    """The axes along which the members of a group differ."""
    differing = set()
    for group in operation.groups:
        places = np.array(np.unravel_index(group, mesh.devices.shape))
        differing |= {name for name, along in zip(mesh.axis_names, places, strict=True) if len(set(along)) > 1}
    return "+".join(name for name in mesh.axis_names if name in differing) or "none"


def _bytes_sent(operation: Operation, island_of: list[int]) -> tuple[float, float]:
    """Per device: inside its slice or node, and its share of what leaves it."""
    num_bytes = operation.num_bytes
    if operation.kind == "collective-permute":
        pairs = [(island_of[source] != island_of[target]) for source, target in operation.groups if source != target]
        devices = len(island_of)
        return num_bytes * (len(pairs) - sum(pairs)) / devices, num_bytes * sum(pairs) / devices
    group = operation.groups[0]
    islands = Counter(island_of[place] for place in group)
    members, num_islands = max(islands.values()), len(islands)
    if operation.kind == "all-to-all":
        size = len(group)
        return num_bytes * (members - 1) / size, num_bytes * (size - members) / size
    turns = 2 if operation.kind == "all-reduce" else 1
    across = turns * num_bytes * (num_islands - 1) / num_islands / members
    return turns * num_bytes * (members - 1) / members, across
