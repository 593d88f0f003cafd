"""Names of what a network sees: the modalities, and the channels that can be derived from them."""

import difflib
import itertools
import typing
from collections.abc import Sequence
from typing import Literal

from jaxbrats.config.checks import need
from jaxbrats.system.errors import InputError

Modality = Literal["t1n", "t1c", "t2w", "t2f"]

_MODALITIES: tuple[str, ...] = typing.get_args(Modality)
# Derived channel -> the modalities it cannot do without; what each holds is in `jaxbrats.model.derived`.
DERIVED: dict[str, tuple[str, ...]] = {
    "brain": (),
    **{f"gradient_{modality}": (modality,) for modality in _MODALITIES},
    **{f"{first}-{second}": (first, second) for first, second in itertools.permutations(_MODALITIES, 2)},
}


def check_derived(derived: Sequence[str], modalities: Sequence[str]) -> None:
    """Refuses names of `data.derived` that are unknown or there twice, and those whose modalities are not there.

    Raises:
        InputError: naming the first of them.
    """
    for name in derived:
        if name not in DERIVED:
            near = difflib.get_close_matches(name, DERIVED, n=1, cutoff=0.5)
            known = "It has: brain, gradient_MODALITY such as gradient_t1c, and differences such as t1c-t1n"
            hint = f"Did you mean {near[0]}?" if near else known
            raise InputError(f"config.data.derived: {name!r} is not a channel that can be derived", hint=hint)
        missing = [modality for modality in DERIVED[name] if modality not in modalities]
        if missing:
            raise InputError(
                f"config.data.derived: {name} needs {' and '.join(missing)}, config.data.modalities has only "
                f"{', '.join(modalities)}",
                hint=f"Add {' and '.join(missing)} to config.data.modalities, or leave {name} out",
            )
    need(len(set(derived)) == len(derived), "data.derived names no channel twice", derived)
