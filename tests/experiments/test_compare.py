"""Other methods on the patients and folds of ours: folds, steps, scores and tables, without the other methods."""

import json

import nibabel as nib
import numpy as np
import pytest

from jaxbrats.data.labels import BRATS_2021, BRATS_2023
from jaxbrats.data.raw.cases import find_cases
from jaxbrats.data.raw.nifti import read_labels
from jaxbrats.system.errors import InputError

SCORES = {"dice": [0.9, 0.6, 0.3], "lesion_dice": [0.8, 0.5, 0.2]}
TIMES = {
    "rounds": [{"jaxbrats": 1.0, "Other": 4.0}, {"jaxbrats": 2.0, "Other": 5.0}],
    "ratio": {"median": 0.325, "least": 0.25, "greatest": 0.4},
    "steps_a_round": 4,
    "parameters": 1234,
}


def ours_of(names):
    """Scores of two folds; what a peer is compared with."""
    cases = [{"case": name, "run": number % 2, "as predicted": SCORES} for number, name in enumerate(names)]
    return {"trained_on": [len(names) // 2] * 2, "steps": [100, 100], "cases": cases}


class Other:
    """A peer that predicts the reference, and remembers what it trained."""

    name = "Other"

    def __init__(self, trained):
        self.trained = trained

    def prepare(self, patients):
        self.patients = patients

    def train(self, fold, steps, folder):
        folder.mkdir(parents=True)
        self.trained.append((fold, steps))
        return steps

    def predict(self, fold, folder):
        for name in self.patients.folds[fold]:
            case = self.patients.cases[name]
            yield name, read_labels(case.labels, name, case.label_map)[0]

    def facts(self):
        return dict.fromkeys(("network", "patch and batch", "training", "prediction", "parameters"), "theirs")


def test_a_peer_trains_on_what_a_fold_of_ours_does_not_predict(tmp_path):
    import peers

    for name in "ABCD":
        for ending in ("t1", "t1ce", "t2", "flair", "seg"):
            (tmp_path / f"{name}_{ending}.nii.gz").touch()
    patients = peers.patients_of(str(tmp_path), ours_of("ABC"))
    assert patients.folds == (("A", "C"), ("B",)) and sorted(patients.cases) == ["A", "B", "C"]
    assert patients.splits() == [{"train": ["B"], "val": ["A", "C"]}, {"train": ["A", "C"], "val": ["B"]}]
    (tmp_path / "B_seg.nii.gz").unlink()
    with pytest.raises(InputError, match="lacks B of --ours"):
        peers.patients_of(str(tmp_path), ours_of("ABC"))
    assert peers.folds_of(None, 2) == [0, 1] and peers.folds_of(["1"], 2) == [1] and peers.folds_of([], 2) == []
    with pytest.raises(InputError, match="expected some of 0, 1, found 2"):
        peers.folds_of(["2"], 2)


def test_steps_of_equal_time_and_of_equal_number():
    import compare_nnunet
    import peers

    assert peers.steps_for("steps", 1253, 0.2) == 1253
    assert peers.steps_for("time", 1253, 0.2) == 251 and peers.steps_for("time", 3, 0.01) == 1
    # Epochs of nnU-Net that make up all steps, or nearly.
    assert compare_nnunet.epochs_of(1253) == (179, 7) and compare_nnunet.epochs_of(250) == (25, 10)
    assert compare_nnunet.epochs_of(251) == (25, 10)


def test_the_tables_are_of_the_folds_that_are_finished(tiny_cohort, tmp_path, capsys):
    import peers

    names = sorted(path.name for path in tiny_cohort.iterdir() if path.is_dir())
    (tmp_path / "ours.json").write_text(json.dumps(ours_of(names)))
    (tmp_path / "Other").mkdir()
    (tmp_path / "Other" / "step_times.json").write_text(json.dumps(TIMES))
    trained = []

    def run(*more):
        values = peers.define_flags()
        places = [f"--raw={tiny_cohort}", f"--workdir={tmp_path}", f"--results={tmp_path}"]
        values(["compare", *places, f"--ours={tmp_path / 'ours.json'}", "--steps=100", *more])
        return peers.compare("table", [Other(trained)], ("numpy",), values)

    assert run("--folds_run=") == 0 and not (tmp_path / "table.md").exists()
    assert run("--folds_run=1") == 0 and trained == [(1, 32)]
    (one,) = json.loads((tmp_path / "table.json").read_text())["comparisons"]
    assert [case["case"] for case in one["cases"]] == names[1::2] and one["folds"] == [1]
    assert one["cases"][0] == {
        "case": names[1],
        "fold": 1,
        "jaxbrats": SCORES,
        "Other": {"dice": [1.0] * 3, "lesion_dice": [1.0] * 3},
    }
    text = (tmp_path / "table.md").read_text()
    assert f"Fold 1 of 2, counted from 0: 4 of {len(names)} patients" in text
    assert "| Dice, jaxbrats | 0.900 (0.900 to 0.900) | 0.600 (" in text
    assert "| difference | -0.100 (-0.100 to -0.100) | -0.400 (-0.400 to -0.400) | -0.700 (" in text
    assert "| -0.500 (-0.500 to -0.500) |\n\n| | jaxbrats | Other |" in text  # of lesion-wise Dice, over the regions
    assert "| steps | 100 | 32 |\n| seconds a step | 1.50 (1.00 to 2.00) | 4.50 (4.00 to 5.00) |" in text
    assert "| parameters | 1,234 | theirs |" in text and "takes 0.33 (0.25 to 0.40) times" in text
    # What is finished is not trained again.
    assert run() == 0 and trained == [(1, 32), (0, 32)]
    assert run("--equal=steps") == 0 and trained[2:] == [(0, 100), (1, 100)]
    text = (tmp_path / "table.md").read_text()
    assert "## Other, equal time" in text and "## Other, equal steps" in text
    assert f"2-fold cross-validation: {len(names)} of {len(names)} patients" in text


def test_tables_are_made_again_with_other_networks_of_ours(tmp_path):
    import peers_table

    ours = ours_of("ABCD")
    theirs = {fold: {"steps": 7, "cases": dict.fromkeys(cases, SCORES)} for fold, cases in enumerate(("AC", "BD"))}
    made = peers_table.comparison("Other", ours, theirs, dict.fromkeys(peers_table.our_facts(TIMES), "theirs"), TIMES)
    made |= {"equal": "time", "our_steps": 100, "ours": "old.json", "spacing_mm": [3.0] * 3}
    report = {"machine": {}, "comparisons": [made]}
    better = ours_of("ABCD")
    for case in better["cases"]:
        case["as predicted"] = {"dice": [1.0, 0.7, 0.4], "lesion_dice": [0.8, 0.5, 0.2]}
    (one,) = peers_table.with_ours(report, better, str(tmp_path / "new.json"))["comparisons"]
    assert one["ours"] == "new.json" and one["cases"][0]["Other"] == SCORES and one["times"] == TIMES
    assert [case["jaxbrats"]["dice"][0] for case in one["cases"]] == [1.0] * 4
    for wrong in (better | {"steps": [100, 99]}, ours_of("ACBD")):
        with pytest.raises(InputError, match="expected 100 steps of the folds that Other was trained on"):
            peers_table.with_ours(report, wrong, "new.json")


def test_the_mean_over_regions_is_of_each_patient():
    import peers_table

    ours, theirs = {"dice": [0.5, 0.5, 0.5]}, {"dice": [0.25, 0.5, 1.0]}
    values = [peers_table.with_mean([one["dice"]]) for one in (ours, theirs)]
    np.testing.assert_allclose(values[0] - values[1], [[0.25, 0.0, -0.5, -0.25 / 3]])


def test_files_for_nnunet(tiny_cohort, tmp_path):
    import compare_nnunet

    case = find_cases(tiny_cohort).cases[0]
    files = compare_nnunet.as_nnunet(case, tmp_path / "labels.nii.gz")
    assert [path.rsplit("-", 1)[1] for path in files["images"]] == [f"{m}.nii.gz" for m in ("t1n", "t1c", "t2w", "t2f")]
    written = np.asarray(nib.load(files["label"]).dataobj)
    labels, affine = read_labels(case.labels, case.name, case.label_map)
    for old, new in {0: 0, 1: 2, 2: 1, 3: 3}.items():
        assert np.array_equal(written == new, labels == old)
    np.testing.assert_array_equal(nib.load(files["label"]).affine, affine)


def test_labels_of_monais_channels():
    import compare_monai

    core, whole, enhancing = [0.4, 0.6, 0.6, 0.1], [0.4, 0.9, 0.6, 0.5], [0.4, 0.5, 0.1, 0.2]
    assert compare_monai.labels_of(np.array([core, whole, enhancing])).tolist() == [0, 3, 1, 2]


@pytest.mark.parametrize("label_map", [BRATS_2021, BRATS_2023])
def test_monais_transforms_and_their_inverse(label_map, tmp_path):
    monai = pytest.importorskip("monai")
    import compare_monai

    shape, affine = (33, 36, 30), np.diag([-1.0, -1.0, 1.0, 1.0])
    labels = np.zeros(shape, np.uint8)
    for name, start in ((2, 9), (1, 12), (3, 15)):
        labels[start : 27 - start // 3, start:24, start:21] = name
    place = np.indices(shape)
    image = np.where(place.min(axis=0) >= 6, 1.0 + place.sum(axis=0), 0.0).astype(np.float32)
    in_file = np.array(sorted(label_map, key=label_map.get), np.uint8)
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "image.nii.gz")
    nib.save(nib.Nifti1Image(in_file[labels], affine), tmp_path / "seg.nii.gz")
    files = {"image": [str(tmp_path / "image.nii.gz")] * 4, "label": str(tmp_path / "seg.nii.gz")}
    batch = compare_monai.transforms(("image", "label"), training=True)(files)
    assert batch["image"].shape == (4, *compare_monai.PATCH) and batch["label"].shape == (3, *compare_monai.PATCH)
    core, whole, enhancing = np.asarray(batch["label"]).astype(bool)
    assert 0 < enhancing.sum() < core.sum() < whole.sum()
    assert not (core & ~whole).any() and not (enhancing & ~core).any()
    # Back from voxels of 3 mm: what was linear in the file's is so again, where it was.
    forwards = compare_monai.transforms(("image",), training=False)
    data = forwards({"image": files["image"]})
    assert data["image"].shape == (4, 10, 11, 9)
    back = monai.transforms.Invertd("pred", forwards, "image", nearest_interp=False)(data | {"pred": data["image"][:3]})
    inside = (slice(12, -6),) * 3
    assert back["pred"].shape == (3, *shape)
    found, expected = np.asarray(back["pred"])[0][inside].ravel(), image[inside].ravel()
    slope, intercept = np.polyfit(expected, found, 1)
    np.testing.assert_allclose(found, slope * expected + intercept, atol=1e-3 * slope)
    assert slope == pytest.approx(1 / image[image > 0].std(), rel=0.1)


def test_monai_goes_on_from_its_checkpoint(tiny_cohort, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("monai")
    import compare_monai
    import peers

    monkeypatch.setattr(compare_monai, "PATCH", (32, 32, 32))
    monkeypatch.setattr(compare_monai, "CHECKPOINT_STEPS", 2)
    names = [case.name for case in find_cases(tiny_cohort).cases]
    peer = compare_monai.Monai(tmp_path, "SegResNet")
    peer.prepare(peers.patients_of(str(tiny_cohort), ours_of(names)))
    training = peer.training(0, 4, tmp_path / "checkpoint.pt")
    assert [next(training) for _ in range(3)] == [1, 2, 3]  # stopped after the third step, the second is saved
    assert list(peer.training(0, 4, tmp_path / "checkpoint.pt")) == [3, 4]
    saved = torch.load(tmp_path / "checkpoint.pt")
    assert saved["step"] == 4 and saved["schedule"]["last_epoch"] == 4
    assert saved["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0)  # the cosine ends with the last step
    assert list(peer.training(0, 4, tmp_path / "checkpoint.pt")) == []
    name, labels = next(peer.predict(0, tmp_path))
    assert name == names[0] and labels.shape == (20, 24, 18) and labels.dtype == np.uint8
