"""Fine-tuning: a run that begins with the network of another."""

from typing import Any, NamedTuple

import jax
import optax

from jaxbrats.config.settings import Settings
from jaxbrats.inference.network import load_network
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError
from jaxbrats.train.state import init_state, make_model
from jaxbrats.train.transfer import find_input_kernels, transfer


class Beginning(NamedTuple):
    """What a run begins with.

    Attributes:
        variables: Parameters and batch statistics.
        record: Of which network, and what of it, JSON-able.
    """

    variables: dict[str, Any]
    record: dict[str, Any]


def load_beginning(settings: Settings) -> Beginning:
    """What fits of the best checkpoint of `settings.init_from`, and a fresh network's for the rest; says which.

    Raises:
        InputError: there is no such run or checkpoint, or nothing of it fits.
    """
    record = read_record(settings.init_from)
    source = load_network(record.workdir, record.settings, record.frame)
    model, channels = make_model(settings), settings.data.network_channels
    fresh = jax.device_get(init_state(model, optax.identity(), settings.seed, len(settings.data.modalities)).trained)
    source_channels = record.settings.data.network_channels
    found = transfer(
        fresh, jax.device_get(source.variables), channels, source_channels, find_input_kernels(model, len(channels))
    )
    left_out = [f"{name} ({reason})" for name, reason in found.fresh.items()]
    if not found.loaded and not found.by_channel:
        raise InputError(
            f"nothing of this run's network fits the one that config.model describes: {'; '.join(left_out)}",
            file=settings.init_from,
            hint="Give config.model its features and norm, or leave config.init_from empty",
        )
    print(f"begins with {record.workdir}, checkpoint {source.step}: {len(found.loaded)} modules as they are")
    if found.by_channel:
        copied = ", ".join(name for name in channels if name in source_channels)
        new = ", ".join(name for name in channels if name not in source_channels) or "none"
        print(f"  by input channel, {copied} copied and {new} fresh: {', '.join(found.by_channel)}")
    for title, names in (("not loaded, fresh", left_out), ("not used", found.unused)):
        if names:
            print(f"  {title}: {'; '.join(names)}")
    told = {"run": str(record.workdir.resolve()), "step": source.step, "checksum": source.checksum()}
    return Beginning(
        found.variables, told | {name: getattr(found, name) for name in ("loaded", "by_channel", "fresh", "unused")}
    )
