"""The flags that say how arrays are made, for every command that makes them or asks what would be made."""

from absl import flags

from jaxbrats.data.labels import DEFAULT_MODALITIES, MODALITIES
from jaxbrats.data.preprocessing import NORMALIZATIONS, Preprocessing
from jaxbrats.system.errors import InputError


def define(flag_values: flags.FlagValues) -> None:
    """Adds --modalities, --crop, --normalization, --min_tumour and --spacing."""
    flags.DEFINE_list(
        "modalities",
        list(DEFAULT_MODALITIES),
        f"Channels in order, of {', '.join(MODALITIES)}.",
        flag_values=flag_values,
    )
    flags.DEFINE_list("crop", ["128", "128", "128"], "Size X,Y,Z of the arrays in voxels.", flag_values=flag_values)
    flags.DEFINE_enum(
        "normalization",
        "minmax",
        NORMALIZATIONS,
        "minmax: each volume to [0, 1]. zscore: brain voxels (not zero) to mean 0 and standard deviation 1.",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "min_tumour",
        0.01,
        "Least share of tumour voxels in the crop; cases below are skipped.",
        flag_values=flag_values,
    )
    flags.DEFINE_list(
        "spacing",
        None,
        "Size X,Y,Z in mm of the arrays' voxels. By default that of most cases; others are resampled.",
        flag_values=flag_values,
    )


def settings(flag_values: flags.FlagValues) -> Preprocessing:
    """What the flags say.

    Raises:
        InputError: a value is none it can have.
    """
    try:
        crop = tuple(int(size) for size in flag_values.crop)
    except ValueError as error:
        found = ",".join(flag_values.crop)
        raise InputError(f"--crop: expected three sizes such as 128,128,128, found {found}") from error
    return Preprocessing(
        tuple(flag_values.modalities), crop, flag_values.normalization, flag_values.min_tumour, flag_values.spacing
    )
