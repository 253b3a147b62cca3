"""Peak figures of accelerators, from which lower bounds and utilisation are computed.

A TPU's row is of one device as JAX counts them: a core of v2 and v3, a chip from v4 on.

Sources, links in one direction:
- Google Cloud's pages "TPU v3", "v4", "v5e", "v5p" and "v6e" (cloud.google.com/tpu/docs/v5e and so on): peak, memory,
  and its bandwidth; the interconnect is half of what they call bidirectional; the network is the pod's over its chips
  (v5e 6.4 Tbit/s over 256, v6e 25.6 Tbit/s over 256) or the chip's own (v5p 50 Gbit/s). v3's and v4's interconnect is
  their bisection bandwidth over the links that it cuts (6.4 TB/s over 64 of a 32 x 32 torus, 24 TB/s over 512 of 16 x
  16 x 16, rounded up to the 50 GB/s of a link), times four and six links.
- "How to Scale Your Model" (jax-ml.github.io/scaling-book/tpus): the network of v4, and of v2 and v3 as the book's
  6.25 GB/s of a TPU in general, which nobody states for them. v2's four links of 62 GB/s: "The Design Process for
  Google's Training Chips: TPUv2 and TPUv3" (IEEE Micro 41, 2021). A core of v2 and v3 has half of its chip's.
- The clock of a TPU is the one by which its peak is what its matrix units multiply: one unit of 128 x 128 of a core of
  v2 and two of v3, four of each of the two cores of v4 and v5p and of v5e's one, and four of 256 x 256 of v6e.
- NVIDIA's data sheets of A100 SXM 80 GB, H100 SXM, H200 SXM and B200: dense figures, without sparsity; NVLink is half
  of the quoted sum of both directions; the network is that of a DGX node, one adapter per GPU: 200 Gbit/s for A100,
  400 for the others.
"""

import dataclasses

GB, GIGA, TERA, GIB = 1e9, 1e9, 1e12, 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of one device."""

    name: str  # in a topology: v5p, h100
    kinds: tuple[str, ...]  # what `jax.Device.device_kind` starts with
    peak_flops: float  # per second, dense bfloat16
    memory_bytes: int
    memory_bandwidth: float  # bytes/s
    interconnect: float  # bytes/s that a device can send within its slice or node, over all its links together
    network: float  # bytes/s that a device can send to other slices or nodes
    clock: float | None = None  # cycles/s of a TPU's cores

    @property
    def is_tpu(self) -> bool:
        """Whether it is a TPU; else it is a GPU."""
        return self.kinds[0].startswith("TPU")


# Where one kind's name begins like another's, the longer stands first.
CHIPS = (
    Chip("v2", ("TPU v2",), 22.5 * TERA, 8 * GIB, 350 * GB, 124 * GB, 3.125 * GB, 0.7 * GIGA),
    Chip("v3", ("TPU v3",), 61.5 * TERA, 16 * GIB, 450 * GB, 200 * GB, 3.125 * GB, 0.94 * GIGA),
    Chip("v4", ("TPU v4",), 275 * TERA, 32 * GIB, 1228 * GB, 300 * GB, 6.25 * GB, 1.05 * GIGA),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197 * TERA, 16 * GIB, 819 * GB, 200 * GB, 3.125 * GB, 1.5 * GIGA),
    Chip("v5p", ("TPU v5",), 459 * TERA, 95 * GIB, 2765 * GB, 600 * GB, 6.25 * GB, 1.75 * GIGA),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918 * TERA, 32 * GIB, 1640 * GB, 400 * GB, 12.5 * GB, 1.75 * GIGA),
    Chip("a100", ("NVIDIA A100",), 312 * TERA, 80 * GIB, 2039 * GB, 300 * GB, 25 * GB),
    Chip("h100", ("NVIDIA H100",), 989 * TERA, 80 * GIB, 3350 * GB, 450 * GB, 50 * GB),
    Chip("h200", ("NVIDIA H200",), 989 * TERA, int(139.8 * GIB), 4800 * GB, 450 * GB, 50 * GB),
    Chip("b200", ("NVIDIA B200",), 2250 * TERA, 180 * 10**9, 8000 * GB, 900 * GB, 50 * GB),
)


def chip_of(device_kind: str) -> Chip | None:
    """The row of a device's kind, or None where it is not known (a CPU's peak depends on its clock)."""
    return next((chip for chip in CHIPS if device_kind.startswith(chip.kinds)), None)
