"""Preprocessing shared by several runs, on one machine or many: `--shard=2/4` is the second of four.

Shard i of n makes cases i, i + n, i + 2n, ... of the cohort. While not all are done, each keeps the records of its
cases in a manifest of its own,

    DATA/manifest.2-of-4.json    {"version", "settings", "frame", "raw", "finished", "cohort", "cases"}

and what the folder holds is what they say together; the one that ends last makes one manifest.json of them. `cohort` is
a fingerprint of the names of all cases, because shards of different cohorts would leave some out. A run of its own is
shard 1 of 1, which has manifest.json to itself.
"""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from jaxbrats.system.errors import InputError
from jaxbrats.system.files import fingerprint

MANIFEST = "manifest.json"
_PART = re.compile(r"manifest\.([1-9]\d*)-of-([1-9]\d*)\.json")

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, order=True)
class Shard:
    """One of `count` shares of a cohort, numbered from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From "i/n".

        Raises:
            InputError: it is not of that form, or i is not one of 1 to n.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        shard = cls(*map(int, match.groups())) if match else None
        if shard is None or not 1 <= shard.index <= shard.count:
            raise InputError(f"--shard={text}: expected i/n with i from 1 to n, such as 1/4, 2/4, 3/4 and 4/4")
        return shard

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def manifest_name(self) -> str:
        """Name of its manifest."""
        return MANIFEST if self == WHOLE else f"manifest.{self.index}-of-{self.count}.json"

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Its share of all."""
        return items[self.index - 1 :: self.count]


WHOLE = Shard(1, 1)


def find_parts(data_dir: pathlib.Path) -> dict[Shard, pathlib.Path]:
    """The manifests of shards that are not yet made one.

    Raises:
        InputError: they are of runs with different numbers of shards.
    """
    matches = [match for path in data_dir.glob("manifest.*.json") if (match := _PART.fullmatch(path.name))]
    parts = {Shard(*map(int, match.groups())): data_dir / match.string for match in matches}
    counts = sorted({shard.count for shard in parts})
    if len(counts) > 1:
        raise InputError(
            f"was preprocessed in shards of {' and of '.join(map(str, counts))}, which do not go together",
            file=data_dir,
            hint="Run jaxbrats preprocess once without --shard: finished cases are kept",
        )
    return dict(sorted(parts.items()))


def merge(parts: Mapping[Shard, dict[str, Any]], before: dict[str, Any] | None) -> dict[str, Any]:
    """What the manifests of shards say together.

    Args:
        parts: Those there are, at least one, all with the same count.
        before: The manifest of the folder from before; where it is finished and of the same settings and cohort, its
            records stand for those of shards that have not been run again.

    Returns:
        A manifest, `finished` when every shard is there and done. Its further entry `missing` says of each shard that
        is not why, for the user to read.
    """
    first = next(iter(parts.values()))
    settings, cohort, count = first["settings"], first["cohort"], next(iter(parts)).count
    stands = (
        before is not None
        and before["finished"]
        and before["settings"] == settings
        and before["frame"] == first["frame"]
        and fingerprint(before["cases"]) == cohort
    )
    shares, missing = [], []
    for shard in (Shard(index, count) for index in range(1, count + 1)):
        part = parts.get(shard)
        if part is None and stands:
            shares.append(shard.share(list(before["cases"].items())))
            continue
        if part is None:
            missing.append(f"{shard} (not started)")
        elif any(part[key] != first[key] for key in ("settings", "frame", "cohort")):
            what = "other settings" if part["settings"] != settings else "another cohort"
            missing.append(f"{shard} (of {what} than {next(iter(parts))})")
        elif not part["finished"]:
            missing.append(f"{shard} (not finished)")
        shares.append([] if part is None else list(part["cases"].items()))
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*shares))
    return {
        "version": first["version"],
        "settings": settings,
        "frame": first["frame"],
        "raw": first["raw"],
        "finished": not missing,
        "cases": dict(item for item in rounds if item is not None),
        "missing": missing,
    }
