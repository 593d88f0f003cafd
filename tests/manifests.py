"""Manifests as preprocessing writes them, for tests that need no arrays made."""

from typing import Any

import numpy as np

from jaxbrats.data.manifest import VERSION
from jaxbrats.data.preprocessing import Preprocessing


def record_of(name: str, status: str = "kept", **others: Any) -> dict[str, Any]:
    """A case's record."""
    lies = {"shape": [8, 8, 8], "affine": np.eye(4).tolist()}
    # Of no file: what is read is then compared by its content.
    stat = {part: {"size": 0, "mtime_ns": 0} for part in ("image", "mask")}
    made = {"checksum": {"image": "crc32:0", "mask": "crc32:0"}, "stat": stat, "sources": {}}
    place = {**lies, "file": lies, "crop_origin": [0, 0, 0], "tumour_fraction": 0.1}
    counts = {"label_voxels": [500, 4, 4, 4], "label_voxels_outside": [0, 0, 0, 0]}
    reason = {} if status == "kept" else {"reason": f"is {status}"}
    return {"status": status, **reason, "patient": name[:-4], **place, **made, **counts, **others}


def manifest_of(settings: Preprocessing, records: dict[str, Any], finished: bool = True) -> dict[str, Any]:
    """A whole manifest."""
    head = {"version": VERSION, "settings": settings.to_dict(), "frame": None, "raw": "../raw"}
    return {**head, "finished": finished, "cases": records}
