"""Fine-tuning: a run that begins with a trained network."""

from typing import Any, NamedTuple

import jax
import optax

from jaxbrats.config.settings import Settings
from jaxbrats.runs.networks import find_network
from jaxbrats.runs.record import patients_trained_on, read_record
from jaxbrats.system.errors import InputError
from jaxbrats.train.state import init_state, make_model
from jaxbrats.train.transfer import find_input_kernels, transfer


class Beginning(NamedTuple):
    """What a run begins with.

    Attributes:
        variables: Parameters and batch statistics.
        record: Of which network, what of it, and the patients it learned from, JSON-able.
    """

    variables: dict[str, Any]
    record: dict[str, Any]


def load_beginning(settings: Settings) -> Beginning:
    """What fits of the network that `settings.init_from` names, and a fresh network's for the rest; says which.

    Raises:
        InputError: there is no such network, or nothing of it fits.
    """
    source = find_network(settings.init_from)
    # Exported files name no patients.
    patients = patients_trained_on(read_record(source.workdir)) if source.workdir.is_dir() else ()
    model, channels = make_model(settings), settings.data.network_channels
    fresh = jax.device_get(init_state(model, optax.identity(), settings.seed, len(settings.data.modalities)).trained)
    source_channels = (*source.preprocessing.modalities, *source.model.derived)
    found = transfer(
        fresh, jax.device_get(source.variables), channels, source_channels, find_input_kernels(model, len(channels))
    )
    left_out = [f"{name} ({reason})" for name, reason in found.fresh.items()]
    if not found.loaded and not found.by_channel:
        raise InputError(
            f"nothing of this network fits the one that config.model describes: {'; '.join(left_out)}",
            file=settings.init_from,
            hint="Give config.model its features and norm, or leave config.init_from empty",
        )
    print(f"begins with {source.workdir}, checkpoint {source.step}: {len(found.loaded)} modules as they are")
    if found.by_channel:
        copied = ", ".join(name for name in channels if name in source_channels)
        new = ", ".join(name for name in channels if name not in source_channels) or "none"
        print(f"  by input channel, {copied} copied and {new} fresh: {', '.join(found.by_channel)}")
    for title, names in (("not loaded, fresh", left_out), ("not used", found.unused)):
        if names:
            print(f"  {title}: {'; '.join(names)}")
    told = {
        "network": str(source.workdir.resolve()),
        "step": source.step,
        "checksum": source.checksum(),
        "patients": sorted(patients),
    }
    of_it = {name: getattr(found, name) for name in ("loaded", "by_channel", "fresh", "unused")}
    return Beginning(found.variables, told | of_it)
