import json
import os
import threading
import types
import zlib

import nibabel as nib
import numpy as np
import pytest

from jaxbrats.data import cohort
from jaxbrats.data.cohort import preprocess_cohort
from jaxbrats.data.manifest import read_manifest
from jaxbrats.data.preprocessing import Preprocessing, preprocess_case
from jaxbrats.data.raw.cases import Case, Cohort, find_cases
from jaxbrats.system.errors import InputError

SHAPE = (9, 8, 7)
SETTINGS = Preprocessing(crop=(4, 4, 4), min_tumour=0.01)
NAMES = [f"BraTS-GLI-{number:05d}-000" for number in (1, 2, 10)]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


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
    assert (manifest["version"], manifest["finished"]) == (1, True)
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
        assert entry["sources"]["t1c"] == source
        assert list(entry["sources"]) == ["t2f", "t1c", "t2w", "seg"]


def test_run_again_does_nothing(folders):
    before = run(folders)
    stamped = stamps(folders[1])
    assert len(stamped) == 6
    assert run(folders) == before
    assert stamps(folders[1]) == stamped


@pytest.mark.parametrize("damage", ["touched", "removed", "truncated", "other shape"])
def test_run_again_does_what_changed_and_no_more(folders, damage):
    raw, out = folders
    before = run(folders)
    stamped = stamps(out)
    changed = out / "images" / f"{NAMES[1]}.npy"
    if damage == "touched":
        os.utime(raw / NAMES[1] / f"{NAMES[1]}-seg.nii.gz", ns=(1, 1))
    elif damage == "removed":
        changed.unlink()
    elif damage == "truncated":
        os.truncate(changed, changed.stat().st_size - 1)
    else:
        np.save(changed, np.zeros((4, 4, 3, 3), np.float32))
    again = run(folders)
    redone = {f"{folder}/{NAMES[1]}.npy" for folder in ("images", "masks")}
    assert {name for name, stamp in stamps(out).items() if stamp != stamped[name]} == redone
    again["cases"][NAMES[1]].pop("sources")
    before["cases"][NAMES[1]].pop("sources")
    assert again == before


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there.*Run jaxbrats preprocess"),
        ("{", "is not valid JSON"),
        ("[]", "expected version 1 of the manifest, found list"),
        ('{"version": 2}', "expected version 1 of the manifest, found 2"),
        ('{"version": 1, "finished": true, "cases": {"a": {}}}', "is not as jaxbrats preprocess writes it"),
        ('{"version": 1, "finished": true, "cases": {}}', "expected preprocessing settings"),
    ],
)
def test_a_manifest_that_cannot_be_used(tmp_path, content, message):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)
