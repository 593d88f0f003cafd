"""A patient segmented by an exported network with NumPy, nibabel and onnxruntime alone, as `jaxbrats predict` would.

    jaxbrats export --model=demo --out=demo.onnx
    python experiments/onnx_window.py demo.onnx BraTS-GLI-00001-000 segmentation.nii.gz

The folder holds the files of one patient as BraTS 2023 names them; all else is read from the metadata of the network's
file. The labels are as the network finds them: no component is removed or relabelled afterwards. Only volumes smaller
than the network's crop are padded in a slightly other way.
"""

import itertools
import json
import pathlib
import sys

import nibabel as nib
import numpy as np
import onnxruntime


def resample(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Linear between the centres of voxels, `(X, Y, Z, C)` to `(*shape, C)`; where they grow, a mean by a triangle."""
    for axis, (old, new) in enumerate(zip(x.shape, shape, strict=False)):
        distance = np.abs(((np.arange(new) + 0.5) * old / new - 0.5)[:, None] - np.arange(old))
        weights = np.maximum(1 - distance / max(old / new, 1), 0)
        weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
        x = np.moveaxis(np.tensordot(weights, x, (1, axis)), 0, axis) if old != new else x
    return x


def predict(session: onnxruntime.InferenceSession, x: np.ndarray, about: dict) -> np.ndarray:
    """Probabilities `(X, Y, Z, K)` of an image `(X, Y, Z, C)`, window by window."""
    window, whole = about["window"], x.shape
    missing = [max(size - length, 0) for size, length in zip(window, whole, strict=False)]
    x = np.pad(x, [*((n // 2, n - n // 2) for n in missing), (0, 0)])
    sides = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in window]
    gauss = np.maximum(sides[0][:, None, None] * sides[1][:, None] * sides[2], 1e-3)[..., None].astype(np.float32)
    steps = [max(int(n * (1 - about["overlap"])), 1) for n in window]
    lasts = [length - size for length, size in zip(x.shape, window, strict=False)]
    axes = [[*range(0, last, step), last] for last, step in zip(lasts, steps, strict=True)]
    mirrorings = [[a for a in (1, 2, 3) if code >> a & 1] for code in range(0, 16, 2)] if about["mirror"] else [[]]
    total, weight = 0 * x[..., :1].repeat(len(about["channels"]), -1), 0 * x[..., :1]
    for start in itertools.product(*axes):
        box = tuple(slice(first, first + size) for first, size in zip(start, window, strict=True))
        for mirrored in mirrorings:
            (found,) = session.run(None, {"image": np.flip(x[box][None], mirrored)})
            total[box] += gauss * np.flip(found, mirrored)[0] / len(mirrorings)
        weight[box] += gauss
    return (total / weight)[tuple(slice(n // 2, n // 2 + size) for n, size in zip(missing, whole, strict=False))]


def segment(model: str, folder: str) -> nib.Nifti1Image:
    """The segmentation of a patient, on the voxels of the images."""
    session = onnxruntime.InferenceSession(model, providers=onnxruntime.get_available_providers())
    about = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    files = [nib.load(next(pathlib.Path(folder).glob(f"*-{name}.nii*"))) for name in about["modalities"]]
    own, trained = nib.io_orientation(files[0].affine), nib.orientations.axcodes2ornt(about["orientation"])
    turn, back = nib.orientations.ornt_transform(own, trained), nib.orientations.ornt_transform(trained, own)
    volumes = [nib.apply_orientation(np.asarray(file.dataobj, np.float32), turn) for file in files]
    scale = nib.affines.voxel_sizes(files[0].affine)[np.argsort(turn[:, 0])] / about["spacing_mm"]
    scale = np.where(abs(scale - 1) < 0.01, 1, scale)
    least, box = (1, 1, 1) if about["crop"] == "brain" else np.ceil(about["crop"] / scale).astype(int), []
    for hit, whole, size in zip(np.nonzero(np.any(volumes, axis=0)), volumes[0].shape, least, strict=True):
        length = max(np.ptp(hit) + 1, size)
        start = min(max(hit.min() - (length - np.ptp(hit) - 1) // 2, 0), max(whole - length, 0))
        box.append(slice(start, start + length))
    box = tuple(box)
    if about["normalization"] == "zscore":
        brains = [v[v != 0].astype(float) for v in volumes]
        image = [(v[box] - b.mean()) / b.std() * (v[box] != 0) for v, b in zip(volumes, brains, strict=True)]
    else:
        image = [(v[box] - v.min()) / np.ptp(v) for v in volumes]
    image = np.stack(image, axis=-1).astype(np.float32)
    small = [round(size * factor) for size, factor in zip(image.shape, scale, strict=False)]
    found = resample(predict(session, resample(image, small), about), image.shape[:3])
    if about["head"] == "labels":
        inside = found.argmax(-1)
    else:
        wt, tc, et = np.moveaxis(found > np.array(about["thresholds"], np.float32), -1, 0)
        inside = np.where(et, 3, np.where(tc, 1, np.where(wt, 2, 0)))
    labels = np.zeros(volumes[0].shape, np.uint8)
    labels[box] = inside
    return nib.Nifti1Image(nib.apply_orientation(labels, back), files[0].affine)


if __name__ == "__main__":
    nib.save(segment(*sys.argv[1:3]), sys.argv[3])
