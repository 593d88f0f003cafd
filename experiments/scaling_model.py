"""How long a training step takes on n devices: compute, gradients, halos and the wait for the slowest, added up.

T(n) = compute / space + halos(space) + allreduce(n) + wait(n)

- compute: of one case on one device, from which everything else is independent: a case a device (weak scaling).
- halos: each volume lies on `space` GPUs of one machine; the bytes that a GPU sends a step are read off the compiled
  program, and go at the speed of the machine's links, a message each.
- allreduce: the gradients, float32. Within a machine reduce-scatter and all-gather, 2 (g - 1) / g of the bytes over the
  machine's links; between k machines 2 (k - 1) / k of each GPU's g-th over its network link; messages take the latency
  2 (g - 1) times within and 2 ceil(log2 k) times between (a tree). Nothing of it overlaps with the backward pass, which
  is pessimistic.
- wait: every step waits for the slowest of n. With independent normal times that is sqrt(2 ln n) standard deviations.

Not in it: reading (stated as the rate that the storage must give), checkpoints, validation, failures.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Links:
    """Published speeds of a kind of cluster, for each GPU and direction.

    Attributes:
        name: What it is like.
        gpus: Of a machine.
        inside: Bytes a second between the GPUs of a machine.
        between: Bytes a second between machines.
        share: Of these that collective operations reach.
        latency_inside: Seconds a message takes.
        latency_between: The same between machines.
    """

    name: str
    gpus: int
    inside: float
    between: float
    share: float = 0.7
    latency_inside: float = 5e-6
    latency_between: float = 20e-6


GPU_CLUSTERS = (
    Links("8 GPUs a machine, NVLink 4 (450 GB/s), a 400 Gbit/s adapter each", 8, 450e9, 50e9),
    Links("4 GPUs a machine, PCIe 4 x16 (32 GB/s), 100 Gbit/s Ethernet for all four", 4, 32e9, 12.5e9 / 4),
)
CPU_CLUSTER = Links("CPU machines like this one (its rate as measured), 25 Gbit/s Ethernet", 1, 1.0, 25e9 / 8)
CLUSTERS = (*GPU_CLUSTERS, CPU_CLUSTER)


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step asks for.

    Attributes:
        compute_seconds: Of one case on one GPU.
        gradient_bytes: Of all parameters.
        space: GPUs that share a volume.
        halo_bytes: What each of them sends a step.
        halo_messages: In how many messages.
        deviation: Standard deviation of a GPU's step time, as a share of it.
    """

    compute_seconds: float
    gradient_bytes: float
    space: int = 1
    halo_bytes: float = 0.0
    halo_messages: int = 0
    deviation: float = 0.02


def allreduce_seconds(gradient_bytes: float, gpus: int, links: Links) -> float:
    """Time in which every one of `gpus` has the sum of all gradients."""
    inside = min(gpus, links.gpus)
    machines = math.ceil(gpus / links.gpus)
    seconds = 2 * (inside - 1) / inside * gradient_bytes / (links.inside * links.share)
    seconds += 2 * (inside - 1) * links.latency_inside
    if machines > 1:
        seconds += 2 * (machines - 1) / machines * gradient_bytes / inside / (links.between * links.share)
        seconds += 2 * math.ceil(math.log2(machines)) * links.latency_between
    return seconds


def step_seconds(step: Step, gpus: int, links: Links) -> float:
    """T(n) of the formula above; `gpus` is a multiple of `step.space`, and a volume lies within a machine.

    Raises:
        ValueError: they do not go together.
    """
    if gpus % step.space or step.space > links.gpus:
        raise ValueError(f"{gpus} GPUs of {links.gpus} a machine cannot hold volumes on {step.space} each")
    compute = step.compute_seconds / step.space
    halos = step.halo_bytes / (links.inside * links.share) + step.halo_messages * links.latency_inside
    wait = compute * step.deviation * math.sqrt(2 * math.log(gpus)) if gpus > 1 else 0.0
    return compute + halos + allreduce_seconds(step.gradient_bytes, gpus, links) + wait


def efficiency(step: Step, gpus: int, links: Links) -> float:
    """Share of the work that the GPUs would do without each other: cases a second over n times those of one GPU."""
    return step.compute_seconds / step.space / step_seconds(step, gpus, links)
