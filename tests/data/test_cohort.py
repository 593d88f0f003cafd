import dataclasses
import functools
import json
import os
import pathlib
import shutil
import threading
import types
import zlib

import nifti_files
import numpy as np
import pytest
from manifests import manifest_of, record_of

from jaxbrats.data import cohort
from jaxbrats.data.cohort import preprocess_cohort
from jaxbrats.data.manifest import read_manifest
from jaxbrats.data.preprocessing import Preprocessing, preprocess_case
from jaxbrats.data.raw import geometry
from jaxbrats.data.raw.cases import Case, Cohort, find_cases
from jaxbrats.data.shards import WHOLE, Shard
from jaxbrats.data.sources import differences
from jaxbrats.inference import predictions
from jaxbrats.system.errors import InputError

SHAPE = (9, 8, 7)
SETTINGS = Preprocessing(crop=(4, 4, 4), min_tumour=0.01)
NAMES = [f"BraTS-GLI-{number:05d}-000" for number in (1, 2, 10)]
save = functools.partial(nifti_files.save, affine=np.eye(4))


def write_case(raw, name, seed=0):
    rng = np.random.default_rng(seed)
    for modality in ("t1c", "t2w", "t2f"):
        save(raw / name / f"{name}-{modality}.nii.gz", rng.integers(0, 999, SHAPE).astype(np.int16))
    save(raw / name / f"{name}-seg.nii.gz", rng.integers(0, 4, SHAPE).astype(np.uint8))


@pytest.fixture
def folders(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for seed, name in enumerate(NAMES):
        write_case(raw, name, seed)
    return raw, out


def run(folders, settings=SETTINGS, workers=1):
    return preprocess_cohort(*folders, settings, workers, progress=False)


def statuses(manifest):
    return {name: record["status"] for name, record in manifest["cases"].items()}


def stamps(out):
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in out.glob("*/[!.]*.npy")}


@pytest.mark.parametrize("workers", [1, 2])
def test_arrays_and_manifest(folders, workers):
    raw, out = folders
    manifest = run(folders, workers=workers)
    assert manifest == read_manifest(out) == json.loads((out / "manifest.json").read_text())
    assert (manifest["version"], manifest["finished"], manifest["raw"]) == (2, True, "../raw")
    assert manifest["settings"] == SETTINGS.to_dict()
    assert list(manifest["cases"]) == NAMES
    for case in find_cases(raw).cases:
        image, labels, record = preprocess_case(case, SETTINGS)
        files = [out / folder / f"{case.name}.npy" for folder in ("images", "masks")]
        for path, expected in zip(files, (image, labels), strict=True):
            array = np.load(path)
            assert (array.dtype, array.flags.c_contiguous) == (expected.dtype, True)
            np.testing.assert_array_equal(array, expected)
        entry = manifest["cases"][case.name]
        assert entry | record == entry
        assert entry["patient"] == case.name[:-4]
        checks = {"image": f"crc32:{zlib.crc32(image):08x}", "mask": f"crc32:{zlib.crc32(labels):08x}"}
        assert entry["checksum"] == checks
        t1c = raw / case.name / f"{case.name}-t1c.nii.gz"
        status = t1c.stat()
        source = {"path": f"{case.name}/{t1c.name}", "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        assert entry["sources"]["t1c"] == source | {"checksum": f"crc32:{zlib.crc32(t1c.read_bytes()):08x}"}
        stats = [{"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns} for path in files]
        assert entry["stat"] == dict(zip(("image", "mask"), stats, strict=True))
        assert list(entry["sources"]) == ["t2f", "t1c", "t2w", "seg"]


def test_run_again_does_nothing(folders):
    before = run(folders)
    stamped = stamps(folders[1])
    assert len(stamped) == 6
    assert run(folders) == before
    assert stamps(folders[1]) == stamped


@pytest.mark.parametrize("damage", ["relabelled", "removed", "truncated", "other shape"])
def test_run_again_does_what_changed_and_no_more(folders, damage):
    raw, out = folders
    before = run(folders)
    stamped = stamps(out)
    changed = out / "images" / f"{NAMES[1]}.npy"
    if damage == "relabelled":
        write_case(raw, NAMES[1], seed=1)
        save(raw / NAMES[1] / f"{NAMES[1]}-seg.nii.gz", np.full(SHAPE, 2, np.uint8))
    elif damage == "removed":
        changed.unlink()
    elif damage == "truncated":
        os.truncate(changed, changed.stat().st_size - 1)
    else:
        np.save(changed, np.zeros((4, 4, 3, 3), np.float32))
    again = run(folders)
    redone = {f"{folder}/{NAMES[1]}.npy" for folder in ("images", "masks")}
    assert {name for name, stamp in stamps(out).items() if stamp != stamped[name]} == redone
    if damage == "relabelled":
        assert again["cases"][NAMES[1]]["label_voxels"] == [0, 0, 64, 0]
        return
    again["cases"][NAMES[1]].pop("stat")
    before["cases"][NAMES[1]].pop("stat")
    assert again == before


def test_a_touched_or_copied_cohort_is_not_made_again(folders, tmp_path):
    run(folders)
    stamped = stamps(folders[1])
    shutil.copytree(folders[0], tmp_path / "copy")
    (tmp_path / "copy" / NAMES[1]).rename(tmp_path / "copy" / "elsewhere")
    for path in [*(tmp_path / "copy").rglob("*.nii.gz"), *folders[1].rglob("*.npy")]:
        os.utime(path, ns=(1, 1))
    copied = (tmp_path / "copy", folders[1])
    assert {found.what for found in differences(*copied, SETTINGS)} == set()
    manifest = run(copied)
    assert set(stamps(folders[1]).values()) == {1} and len(stamped) == 6
    assert manifest["raw"] == "../copy"
    assert manifest["cases"][NAMES[1]]["sources"]["t1c"]["path"] == f"elsewhere/{NAMES[1]}-t1c.nii.gz"
    assert {source["mtime_ns"] for record in manifest["cases"].values() for source in record["sources"].values()} == {1}
    assert run(copied) == manifest


def test_differences_are_told_and_nothing_is_changed(folders):
    raw, out = folders
    run(folders)
    assert differences(raw, out, SETTINGS) == []
    before = stamps(out), (out / "manifest.json").read_bytes()
    seg = raw / NAMES[0] / f"{NAMES[0]}-seg.nii.gz"
    size = seg.stat().st_size
    content = bytearray(seg.read_bytes())
    content[-1] ^= 1
    seg.write_bytes(content)  # of the same size
    assert seg.stat().st_size == size
    (raw / NAMES[1]).rename(raw.parent / "elsewhere")
    write_case(raw, "BraTS-GLI-00011-000")
    (raw / NAMES[2] / f"{NAMES[2]}-t1c.nii.gz").unlink()
    found = {(difference.name, difference.what) for difference in differences(raw, out, SETTINGS)}
    assert found == {
        (NAMES[0], "changed"),
        (NAMES[1], "gone"),
        (NAMES[2], "changed"),
        ("BraTS-GLI-00011-000", "new"),
    }
    assert (stamps(out), (out / "manifest.json").read_bytes()) == before


def in_frame(array, affine, orientation):
    return geometry.reorient(array, affine, orientation), geometry.reoriented_affine(affine, array.shape, orientation)


def test_a_case_that_lies_otherwise_is_turned_to_the_others(folders):
    raw, out = folders
    run(folders)
    stamped = {path: path.read_bytes() for path in out.rglob("*.npy")}
    for path in (raw / NAMES[1]).iterdir():
        array, affine = in_frame(nifti_files.voxels(path), np.eye(4), "SPL")
        save(path, array, affine=affine)
    manifest = run(folders)
    assert manifest["frame"] == {"orientation": "RAS", "spacing_mm": [1, 1, 1]}
    assert {path: path.read_bytes() for path in out.rglob("*.npy")} == stamped
    record = manifest["cases"][NAMES[1]]
    assert (record["shape"], record["affine"]) == (list(SHAPE), np.eye(4).tolist())
    assert (record["file"]["shape"], record["file"]["orientation"]) == ([7, 8, 9], "SPL")


def test_a_spacing_resamples_images_linearly_and_labels_by_the_largest_share(folders):
    raw, out = folders
    seg, image = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), np.int16)
    seg[4:], image[4:], image[0] = 3, 100, 50
    for path in (raw / NAMES[0]).iterdir():
        save(path, seg if "seg" in path.name else image)
    manifest = run(folders, dataclasses.replace(SETTINGS, spacing=(2, 2, 2)))
    record = manifest["cases"][NAMES[0]]
    assert (record["shape"], record["zooms"], record["file"]["shape"]) == ([4, 4, 4], [2, 2, 2], [8, 8, 8])
    np.testing.assert_array_equal(np.array(record["affine"])[:3, 3], [0.5, 0.5, 0.5])
    mask = np.load(out / "masks" / f"{NAMES[0]}.npy")
    np.testing.assert_array_equal(mask, np.repeat([0, 0, 3, 3], 16).reshape(4, 4, 4))
    # Triangles over two voxels: weights 3 3 1 of 7 at the end, 1 3 3 1 of 8 inside.
    expected = np.array([0.5 * 3 / 7, 1 / 8, 7 / 8, 1])
    found = np.load(out / "images" / f"{NAMES[0]}.npy")
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None, None], (4, 4, 4, 3)), atol=1e-6)
    # Back on the file's voxels.
    predictions.write_prediction(out / "p.nii.gz", mask, record)
    np.testing.assert_array_equal(nifti_files.voxels(out / "p.nii.gz"), seg)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("affine", "x", "affine cannot be x"),
        ("shape", [9, 8], "shape cannot be"),
        ("shape", [9, 8, -7], "shape cannot be"),
        ("file", None, "file.shape is missing"),
        ("checksum", {"image": ""}, "checksum cannot be"),
        ("sources", [1], "sources cannot be"),
        ("status", "lost", "expected a status"),
    ],
)
def test_a_record_that_cannot_be_used_is_one_line(tmp_path, key, value, message):
    manifest = manifest_of(SETTINGS, {NAMES[1]: record_of(NAMES[1], **{key: value})})
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=rf"case {NAMES[1]}: .*manifest.json: {message}.*Delete the folder"):
        read_manifest(tmp_path)


def test_the_advice_on_a_truncated_manifest_can_be_followed(folders):
    run(folders)
    path = folders[1] / "manifest.json"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"is not valid JSON.*\. Delete the folder to have everything made again"):
        run(folders)
    shutil.rmtree(folders[1])
    assert statuses(run(folders)) == dict.fromkeys(NAMES, "kept")


@pytest.mark.parametrize("beside", ["derivatives/{name}/notes.txt", "other/{name}_seg.nii.gz"])
def test_what_lies_beside_a_whole_case_changes_nothing(folders, beside):
    raw, out = folders
    path = raw / beside.format(name=NAMES[1])
    path.parent.mkdir(parents=True)
    path.touch()
    assert [problem.case for problem in find_cases(raw).problems] == [NAMES[1]]
    first = run(folders)
    assert set(statuses(first).values()) == {"kept"}
    assert run(folders) == first and run(folders) == first
    assert differences(raw, out, SETTINGS) == []


def test_a_cohort_named_by_another_path_is_the_same(folders, monkeypatch):
    raw, out = folders
    (raw / "Task02_Heart" / "imagesTr").mkdir(parents=True)
    (raw / "Task02_Heart" / "dataset.json").write_text("{}")
    monkeypatch.chdir(raw.parent)
    first = run((pathlib.Path("raw"), out))
    assert statuses(first)["Task02_Heart/dataset.json"] == "failed"
    assert differences(raw, out, SETTINGS) == []
    assert statuses(run(folders)) == statuses(first)


def test_arrays_that_are_a_link_name_the_whole_path_of_the_cohort(folders, tmp_path):
    raw, out = folders
    (tmp_path / "scratch" / "arrays").mkdir(parents=True)
    out.symlink_to(tmp_path / "scratch" / "arrays")
    assert run(folders)["raw"] == str(raw)


def test_other_settings_redo_everything(folders):
    run(folders)
    other = Preprocessing(("t2f",), (5, 5, 5), "zscore", 0.01)
    assert run(folders, other)["settings"] == other.to_dict()
    assert {np.load(path).shape for path in folders[1].glob("images/*")} == {(5, 5, 5, 1)}


def test_arrays_of_cases_that_are_gone_or_no_longer_kept_are_deleted(folders):
    raw, out = folders
    run(folders)
    (raw / NAMES[0]).rename(raw.parent / "elsewhere")
    (raw / NAMES[1] / f"{NAMES[1]}-seg.nii.gz").unlink()
    np.save(out / "images" / "mine.npy", np.zeros(3))
    manifest = run(folders)
    assert statuses(manifest) == {NAMES[1]: "skipped", NAMES[2]: "kept"}
    assert manifest["cases"][NAMES[1]]["reason"] == "no segmentation"
    assert set(stamps(out)) == {f"images/{NAMES[2]}.npy", f"masks/{NAMES[2]}.npy", "images/mine.npy"}
    assert run(folders) == manifest


def test_bad_cases_are_failed_and_the_others_go_on(folders):
    raw, out = folders
    write_case(raw, "BraTS-GLI-00011-000")
    (raw / "BraTS-GLI-00011-000" / "BraTS-GLI-00011-000-t2w.nii.gz").unlink()
    damaged = raw / NAMES[0] / f"{NAMES[0]}-t2f.nii.gz"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:200])
    link = raw / NAMES[1] / f"{NAMES[1]}-t1c.nii.gz"
    link.unlink()
    link.symlink_to("nowhere")
    manifest = run(folders, workers=2)
    assert manifest["finished"]
    assert list(statuses(manifest).values()) == ["failed", "failed", "kept", "failed"]
    reasons = [record["reason"] for record in manifest["cases"].values()]
    assert reasons[0].startswith(f"case {NAMES[0]}: {damaged}: is damaged or cut short")
    assert reasons[1].startswith(f"case {NAMES[1]}: {link}: cannot be read (No such file or directory). Check that")
    assert "found no t2w" in reasons[3]
    assert len(stamps(out)) == 2
    damaged.write_bytes(content)
    assert statuses(run(folders))[NAMES[0]] == "kept"


def test_decathlon_files_are_told_apart_by_channel_and_labels(tmp_path):
    raw = tmp_path / "raw"
    rng = np.random.default_rng(0)
    save(raw / "imagesTr/BRATS_001.nii.gz", rng.integers(0, 999, (*SHAPE, 4)).astype(np.int16))
    save(raw / "labelsTr/BRATS_001.nii.gz", np.full(SHAPE, 1, np.uint8))
    labels = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
    description = {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, "labels": labels}
    (raw / "dataset.json").write_text(json.dumps(description))
    first = run((raw, tmp_path / "out"))["cases"]["BRATS_001"]
    assert first["label_voxels"] == [0, 0, 64, 0]
    assert {name: source.get("channel") for name, source in first["sources"].items()} == {
        "t2f": 0,
        "t1c": 2,
        "t2w": 3,
        "seg": None,
    }
    labels |= {"1": "necrosis", "2": "edema"}
    (raw / "dataset.json").write_text(json.dumps(description))
    assert run((raw, tmp_path / "out"))["cases"]["BRATS_001"]["label_voxels"] == [0, 64, 0, 0]


def test_a_killed_run_loses_little_and_leaves_no_rubbish(folders, monkeypatch):
    out = folders[1]
    clock = [0.0]
    monkeypatch.setattr("jaxbrats.data.manifest.time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    work = cohort._work

    def killed_at_the_last(task):
        clock[0] += 4
        if task.case.name == NAMES[2]:
            assert list(read_manifest(out)["cases"]) == NAMES[:2]
            (out / "images" / ".partial-1-x.npy").touch()
            raise KeyboardInterrupt
        return work(task)

    monkeypatch.setattr(cohort, "_work", killed_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        run(folders)
    assert not read_manifest(out)["finished"]
    stamped = stamps(out)
    monkeypatch.setattr(cohort, "_work", work)
    assert list(run(folders)["cases"]) == NAMES
    assert {name: stamp for name, stamp in stamps(out).items() if name in stamped} == stamped
    assert not list(out.glob("*/.partial*"))


def test_two_runs_do_not_mix(folders, monkeypatch):
    started, goes_on = threading.Event(), threading.Event()
    work = cohort._work

    def slow(task):
        started.set()
        goes_on.wait(10)
        return work(task)

    monkeypatch.setattr(cohort, "_work", slow)
    first = threading.Thread(target=run, args=(folders,))
    first.start()
    assert started.wait(10)
    with pytest.raises(InputError, match="a preprocess run is at work in this folder already: process "):
        run(folders)
    goes_on.set()
    first.join()
    assert statuses(run(folders)) == dict.fromkeys(NAMES, "kept")


class Deadly(dict):
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_dying_worker_is_an_error_that_names_the_cases(folders, monkeypatch):
    cases = find_cases(folders[0]).cases
    last = cases[-1]
    cases[-1] = Case(last.name, last.patient, last.modalities, last.labels, Deadly(last.label_map))
    monkeypatch.setattr(cohort, "find_cases", lambda *_: Cohort("BraTS 2023", cases, []))
    with pytest.raises(InputError, match=rf"a worker process died.*{NAMES[2]}.*: finished cases are kept"):
        run(folders, workers=2)
    assert not read_manifest(folders[1])["finished"]


def test_a_full_disk_stops_the_run(folders, monkeypatch):
    def full(path, array):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(cohort, "write_npy", full)
    with pytest.raises(OSError, match="No space left"):
        run(folders)


def test_foreign_arrays_are_not_mixed_in(folders):
    (folders[1] / "images").mkdir(parents=True)
    np.save(folders[1] / "images" / "image_0.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"holds arrays that no manifest\.json lists"):
        run(folders)
    assert [path.name for path in folders[1].glob("*/*")] == ["image_0.npy"]


def test_an_empty_cohort_touches_nothing(folders, tmp_path):
    run(folders)
    before = stamps(folders[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="the folder is empty"):
        run((tmp_path / "empty", folders[1]))
    assert stamps(folders[1]) == before


def test_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(InputError, match=r"is missing.*Run jaxbrats preprocess"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("shard", [WHOLE, Shard(1, 2)])
def test_arrays_of_another_cohort_are_not_deleted(tiny_cohort, tmp_path, capsys, shard):
    names = sorted(path.name for path in tiny_cohort.iterdir())
    for folder, some in (("first", names[:3]), ("second", names[3:5])):
        for name in some:
            shutil.copytree(tiny_cohort / name, tmp_path / folder / name)
    settings = Preprocessing(("t2f", "t1c"), (16, 16, 16), "minmax", 0.0)
    out = tmp_path / "out"
    preprocess_cohort(tmp_path / "first", out, settings, workers=1, progress=False)
    with pytest.raises(InputError, match=r"holds arrays of another cohort, .*first, that .*second has no case of"):
        preprocess_cohort(tmp_path / "second", out, settings, workers=1, progress=False, shard=shard)
    assert (out / "images" / f"{names[0]}.npy").exists()
    # A cohort may move and lose a case, which is said.
    (tmp_path / "first").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / names[0])
    preprocess_cohort(tmp_path / "moved", out, settings, workers=1, progress=False)
    assert "arrays of 1 cases that were made otherwise, or are withdrawn, are deleted" in capsys.readouterr().out
    assert not (out / "images" / f"{names[0]}.npy").exists()
