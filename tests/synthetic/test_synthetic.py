import hashlib
import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from jaxbrats.data import labels
from jaxbrats.synthetic import cohort as synthetic
from jaxbrats.synthetic import phantom
from jaxbrats.synthetic import tumour as phantom_tumour
from jaxbrats.system.errors import InputError

TINY = (24, 28, 22)
SMALL = (64, 64, 56)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def grid_of(shape):
    return phantom.Grid(shape)


@pytest.fixture(scope="module")
def small_cases():
    return [synthetic.draw_case(0, synthetic.scan_at(index), SMALL) for index in range(10)]


@pytest.fixture(scope="module")
def plans():
    outline = phantom.draw_outline(grid_of(TINY), np.random.default_rng(0))
    return [phantom_tumour.plan_tumour(outline, np.random.default_rng(seed)) for seed in range(300)]


def best_threshold_dice(image, mask):
    """Dice of the best single threshold, from either side, chosen with the truth known."""
    brain = image > 0
    order = np.argsort(image[brain], kind="stable")
    truth = mask[brain][order]
    chosen = np.arange(1, len(truth) + 1)
    return max((2 * np.cumsum(side) / (chosen + truth.sum())).max() for side in (truth, truth[::-1]))


# --- geometry -------------------------------------------------------------------------------------------------------


def test_brats_shape_has_the_geometry_of_brats():
    grid = grid_of((240, 240, 155))
    assert grid.voxel_mm == 1.0
    np.testing.assert_array_equal(grid.affine, [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert nib.aff2axcodes(grid.affine) == ("L", "P", "S")


def test_smaller_volumes_hold_the_same_head_in_larger_voxels():
    grid = grid_of((96, 96, 80))
    assert grid.voxel_mm == 2.0
    assert grid.affine[1, 3] == 95 * 2.0
    # As long as the largest side asks for, whichever it is.
    assert grid_of((150, 192, 29)).voxel_mm == 5.0


def test_one_seed_is_one_head_at_any_resolution():
    fine, coarse = (phantom.draw_outline(grid_of(shape), np.random.default_rng(3)) for shape in ((96, 96, 80), SMALL))
    fine_ml, coarse_ml = (o.inside.sum() * o.grid.voxel_mm**3 / 1000 for o in (fine, coarse))
    assert 1200 < fine_ml < 1800  # a brain has about 1.2 to 1.6 litres; the sulci's fluid counts here
    assert coarse_ml == pytest.approx(fine_ml, rel=0.01)
    for a, b in zip(fine.points.max(1), coarse.points.max(1), strict=True):
        assert a == pytest.approx(b, abs=3.0)
    fine_head, coarse_head = (phantom.draw_head(o, np.random.default_rng(4), o.points) for o in (fine, coarse))
    for tissue in ("white", "grey", "fluid"):
        fine_share, coarse_share = (getattr(head, tissue).mean() for head in (fine_head, coarse_head))
        assert coarse_share == pytest.approx(fine_share, abs=0.04)


def test_the_head_fits_in_the_volume():
    for seed, shape in itertools.product(range(6), [SMALL, (100, 64, 60)]):
        outline = phantom.draw_outline(grid_of(shape), np.random.default_rng(seed))
        brain = outline.volume(1, np.uint8)
        assert brain[0].sum() == brain[-1].sum() == 0
        assert brain[:, :, -1].sum() == 0
        # A slice at the very front or back may touch the brain, not cut it.
        assert max(brain[:, 0].sum(), brain[:, -1].sum()) < 0.02 * brain[:, shape[1] // 2].sum()


def test_smooth_noise_has_unit_variance_and_correct_gradient():
    grid = grid_of((96, 96, 80))
    stds = [phantom.smooth_noise(grid, np.random.default_rng(seed), 20).std() for seed in range(8)]
    assert np.mean(stds) == pytest.approx(1.0, abs=0.05)
    noise = phantom.smooth_noise(grid, np.random.default_rng(0), 20)
    distance = phantom.sheet_distance(grid, np.random.default_rng(0), 20)
    slope = np.sqrt(sum(np.square(derivative) for derivative in np.gradient(noise, grid.voxel_mm)))
    steep = np.zeros(noise.shape, bool)
    steep[1:-1, 1:-1, 1:-1] = slope[1:-1, 1:-1, 1:-1] > 0.05
    assert steep.mean() > 0.5
    # Finite differences over two voxels of a tenth of the spacing are good to a few per cent.
    error = distance[steep] / (np.abs(noise) / slope)[steep] - 1
    assert np.median(np.abs(error)) < 0.02
    assert np.percentile(np.abs(error), 99) < 0.06


def test_tissue_shares_add_up_to_one():
    outline = phantom.draw_outline(grid_of(SMALL), np.random.default_rng(1))
    head = phantom.draw_head(outline, np.random.default_rng(2), outline.points)
    shares = np.stack([head.white, head.grey, head.fluid, head.vessel, head.choroid, head.gliosis])
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)
    assert shares.min() > -1e-6
    # Roughly as in an adult: more white than grey matter where partial volume counts, one eighth fluid.
    for share, (low, high) in zip(shares.mean(1), [(0.3, 0.6), (0.3, 0.6), (0.05, 0.25)], strict=False):
        assert low < share < high
    assert head.white.dtype == head.grey.dtype == head.fluid.dtype == np.float32


# --- tumours --------------------------------------------------------------------------------------------------------


def test_kinds_of_tumour_have_the_stated_frequencies(plans):
    several = np.mean([len(plan.lesions) > 1 for plan in plans])
    without_enhancement = np.mean([not plan.enhancing for plan in plans])
    volumes = np.array([sum(lesion.core_ml + lesion.edema_ml for lesion in plan.lesions) for plan in plans])
    assert several == pytest.approx(0.2, abs=0.06)
    assert without_enhancement == pytest.approx(0.1, abs=0.05)
    assert np.mean(volumes < 20) == pytest.approx(0.05, abs=0.03)
    assert 130 < np.median(volumes) < 180
    assert volumes.max() <= 330.001


def test_places_vary_and_lesions_keep_apart(plans):
    first = np.array([plan.lesions[0].centre for plan in plans])
    assert np.all(first.std(0) > [20, 20, 10])
    assert abs(np.mean(first[:, 0] > 0) - 0.5) < 0.1
    gaps = [
        np.linalg.norm(np.subtract(a.centre, b.centre)) / (a.radius_mm + b.radius_mm)
        for plan in plans
        for a, b in itertools.combinations(plan.lesions, 2)
    ]
    assert np.median(gaps) > 1


def test_several_lesions_are_several_cores_in_the_labels():
    seen = 0
    for patient in range(40):
        outline, plan = _plan_of(patient, SMALL)
        if len(plan.lesions) == 1:
            continue
        head = phantom.draw_head(outline, np.random.default_rng(patient), phantom_tumour.mass_effect(outline, plan))
        tumour = phantom_tumour.draw_tumour(outline, head, plan, np.random.default_rng(patient))
        core = labels.region_mask(outline.volume(tumour.labels(), np.uint8), "TC")
        parts, _ = ndimage.label(core)
        seen += 1
        assert (np.bincount(parts.ravel())[1:] >= 20).sum() == len(plan.lesions)
        if seen == 3:
            break
    assert seen == 3


def _plan_of(patient, shape):
    outline = phantom.draw_outline(grid_of(shape), np.random.default_rng([patient, 0]))
    return outline, phantom_tumour.plan_tumour(outline, np.random.default_rng([patient, 1]))


def test_volumes_are_those_planned():
    outline, plan = _plan_of(2, SMALL)
    head = phantom.draw_head(outline, np.random.default_rng(0), phantom_tumour.mass_effect(outline, plan))
    tumour = phantom_tumour.draw_tumour(outline, head, plan, np.random.default_rng(0))
    label = tumour.labels()
    voxel_ml = outline.grid.voxel_mm**3 / 1000
    planned = sum(lesion.core_ml for lesion in plan.lesions)
    assert np.isin(label, labels.REGIONS["TC"]).sum() * voxel_ml == pytest.approx(planned, rel=0.15)
    planned += sum(lesion.edema_ml for lesion in plan.lesions)
    assert (label > 0).sum() * voxel_ml == pytest.approx(planned, rel=0.2)
    assert np.all(tumour.necrosis <= tumour.core)
    assert np.all(tumour.core <= tumour.whole)
    grown = plan.grown(1.5)
    assert grown.lesions[0].core_ml == pytest.approx(1.5 * plan.lesions[0].core_ml)
    assert grown.lesions[0].centre == plan.lesions[0].centre


def test_mass_effect_pushes_away_from_the_lesion_and_fades():
    outline, plan = _plan_of(2, TINY)
    lesion = plan.lesions[0]
    moved = np.linalg.norm(outline.points - phantom_tumour.mass_effect(outline, plan), axis=0)
    distance = np.linalg.norm(outline.points - np.array(lesion.centre)[:, None], axis=0)
    assert 3 < moved.max() < 20
    assert len(plan.lesions) > 1 or moved[distance > 5 * lesion.radius_mm].max(initial=0) < 0.5


def test_necrosis_lies_in_the_rim_and_the_rim_in_edema(small_cases):
    for case in small_cases:
        seg = case["seg"]
        brain = case["t1n"] > 0
        border = ndimage.binary_dilation(seg == labels.NCR) & (seg != labels.NCR)
        if (seg == labels.ET).any():
            # What necrosis touches is mostly rim.
            assert np.mean(seg[border] == labels.ET) > 0.75
        core = labels.region_mask(seg, "TC")
        around = ndimage.binary_dilation(core) & ~core & brain
        # The rest is fluid: ventricles and sulci that a core reaches.
        assert np.mean(seg[around] == labels.ED) > 0.5
        # No tumour without a core, and none outside of the brain.
        parts, count = ndimage.label(seg > 0)
        assert set(np.unique(parts[core])) == set(range(1, count + 1))
        assert not seg[~brain].any()


def test_label_proportions_are_about_those_of_brats(small_cases):
    shares = np.array(
        [[np.mean(case["seg"][case["seg"] > 0] == label) for label in (1, 2, 3)] for case in small_cases]
    ).mean(0)
    ncr, ed, et = shares
    assert ed > et > ncr > 0.08
    assert 0.45 < ed < 0.75


# --- images ---------------------------------------------------------------------------------------------------------


def test_images_are_int16_with_background_exactly_zero(small_cases):
    for case in small_cases:
        brain = case["t1n"] > 0
        for modality in labels.MODALITIES:
            assert case[modality].dtype == np.int16
            assert case[modality].shape == SMALL
            np.testing.assert_array_equal(case[modality] > 0, brain)
            assert case[modality].min() == 0
        assert case["seg"].dtype == np.uint8
        assert set(np.unique(case["seg"])) <= {0, 1, 2, 3}
        assert 0.15 < brain.mean() < 0.4


def test_tissues_look_as_in_mri(small_cases):
    darkening = []
    for case in small_cases:
        seg = case["seg"]
        healthy = (seg == 0) & (case["t1n"] > 0)
        edema, rim = seg == labels.ED, seg == labels.ET
        median = {m: np.median(case[m][healthy]) for m in labels.MODALITIES}
        assert np.median(case["t2f"][edema]) > 1.25 * median["t2f"]
        assert np.median(case["t2w"][edema]) > 1.2 * median["t2w"]
        darkening.append(np.median(case["t1n"][edema]) / median["t1n"])
        if rim.any():
            assert np.median(case["t1c"][rim]) > 1.15 * median["t1c"]
            assert np.median(case["t1c"][rim]) > 1.3 * np.median(case["t1c"][edema])
    # Weak on T1n, so that the bias field may hide it in one case.
    assert np.mean(darkening) < 0.95


def test_no_single_threshold_finds_the_tumour(small_cases):
    for modality in labels.MODALITIES:
        dice = [best_threshold_dice(case[modality], case["seg"] > 0) for case in small_cases]
        assert np.mean(dice) < 0.75, modality
        rims = [case for case in small_cases if (case["seg"] == labels.ET).any()]
        dice = [best_threshold_dice(case[modality], case["seg"] == labels.ET) for case in rims]
        assert np.mean(dice) < 0.75, modality


def test_two_modalities_find_more_than_one():
    # Edema is bright on both T2f and T2w; fluid on the second alone, cortex a little on the first.
    gains = []
    for index in (0, 1, 2):
        case = synthetic.draw_case(1, synthetic.scan_at(index), SMALL)
        brain, truth = case["t1n"] > 0, case["seg"] > 0
        relative = {m: case[m] / np.median(case[m][brain]) for m in ("t2f", "t2w")}
        single = max(best_threshold_dice(case[m], truth) for m in labels.MODALITIES)
        product = relative["t2f"] * np.minimum(relative["t2w"], 2)
        gains.append(best_threshold_dice(product * brain, truth) - single)
    assert np.mean(gains) > 0.03


# --- the cohort -----------------------------------------------------------------------------------------------------


def test_every_sixth_scan_is_a_second_time_point():
    scans = [synthetic.scan_at(index) for index in range(13)]
    assert [scan.patient for scan in scans] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 9, 10]
    assert [scan.time_point for scan in scans] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]
    assert scans[5].name == "BraTS-GLI-00004-001"
    assert len({scan.name for scan in map(synthetic.scan_at, range(1000))}) == 1000


def test_second_time_point_is_the_same_head_with_a_larger_tumour(small_cases):
    before, after = small_cases[4], small_cases[5]
    np.testing.assert_array_equal(before["t1n"] > 0, after["t1n"] > 0)
    first, second = before["seg"] > 0, after["seg"] > 0
    assert 1.15 < second.sum() / first.sum() < 1.8
    assert (first & second).sum() > 0.8 * first.sum()
    assert not np.array_equal(before["t2f"], after["t2f"])
    other = small_cases[3]["t1n"] > 0
    assert not np.array_equal(before["t1n"] > 0, other)


def test_most_tumours_are_over_one_percent_of_the_volume(small_cases):
    fractions = np.array([(case["seg"] > 0).mean() for case in small_cases])
    assert np.mean(fractions > 0.01) >= 0.8
    assert fractions.max() < 0.1


def test_files_are_brats_files(tmp_path):
    fractions = synthetic.write_cohort(tmp_path, 2, TINY, seed=5, workers=1)
    case = "BraTS-GLI-00001-000"
    names = {path.name for path in (tmp_path / case).iterdir()}
    assert names == {f"{case}-{part}.nii.gz" for part in ("t1n", "t1c", "t2w", "t2f", "seg")}
    drawn = synthetic.draw_case(5, synthetic.scan_at(1), TINY)
    for part, volume in drawn.items():
        image = nib.load(tmp_path / case / f"{case}-{part}.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), volume)
        assert image.get_data_dtype() == volume.dtype
        np.testing.assert_allclose(image.affine, grid_of(TINY).affine, rtol=1e-6)
        assert image.header["qform_code"] == image.header["sform_code"] == 1
        assert image.header.get_xyzt_units()[0] == "mm"
        assert "synthetic" in image.header["descrip"].item().decode()
    assert fractions[case] == np.mean(drawn["seg"] > 0)


def test_same_seed_same_bytes_whatever_the_workers_and_the_number_of_cases(tmp_path):
    synthetic.write_cohort(tmp_path / "one", 3, TINY, seed=1, workers=1)
    synthetic.write_cohort(tmp_path / "two", 4, TINY, seed=1, workers=2)
    one, two = digests(tmp_path / "one"), digests(tmp_path / "two")
    assert len(one) == 15
    assert one.items() <= two.items()
    # Written again over itself, grown by a case: nothing changes and nothing is left lying about.
    synthetic.write_cohort(tmp_path / "one", 4, TINY, seed=1, workers=1)
    assert digests(tmp_path / "one") == two
    compressed = (tmp_path / "one/BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz").read_bytes()
    # RFC 1952: bytes 4 to 7 are the time of compression, bit 3 of byte 3 announces a file name.
    assert compressed[4:8] == bytes(4)
    assert not compressed[3] & 8


def test_seeds_differ():
    first, second = (synthetic.draw_case(seed, synthetic.scan_at(0), TINY) for seed in (0, 1))
    assert not np.array_equal(first["seg"], second["seg"])
    assert not np.array_equal(first["t1n"] > 0, second["t1n"] > 0)


@pytest.mark.parametrize(
    ("cases", "shape", "seed"),
    [(2, TINY, 7), (2, (24, 28, 24), 1), (1, TINY, 1)],
    ids=["another seed", "another shape", "fewer cases"],
)
def test_refuses_to_mix_cohorts(tmp_path, cases, shape, seed):
    synthetic.write_cohort(tmp_path, 2, TINY, seed=1, workers=1)
    before = digests(tmp_path)
    with pytest.raises(InputError, match="BraTS-GLI-0000"):
        synthetic.write_cohort(tmp_path, cases, shape, seed=seed, workers=1)
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "BraTS-GLI-00003-000/BraTS-GLI-00003-000-t1n.nii.gz",
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz",
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1.nii.gz",
    ],
)
def test_refuses_a_folder_with_other_files(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"a real patient")
    with pytest.raises(InputError, match=r"Choose an(other| empty) folder for --out, or delete what is in it"):
        synthetic.write_cohort(tmp_path, 2, TINY, workers=1)
    assert digests(tmp_path).keys() == {name}


def test_never_writes_over_a_real_case_of_the_same_name(tmp_path):
    case = tmp_path / "BraTS-GLI-00000-000"
    case.mkdir()
    file = case / "BraTS-GLI-00000-000-t1c.nii.gz"
    nib.save(nib.Nifti1Image(np.ones(TINY, np.int16), np.eye(4)), file)
    with pytest.raises(InputError, match="without a description") as caught:
        synthetic.write_cohort(tmp_path, 2, TINY, workers=1)
    assert caught.value.file == file
    assert caught.value.case == case.name


def test_what_an_interrupted_run_left_is_no_obstacle(tmp_path):
    case = tmp_path / "BraTS-GLI-00000-000"
    case.mkdir()
    (case / ".partial-1-BraTS-GLI-00000-000-t1n.nii.gz").write_bytes(b"half")
    synthetic.write_cohort(tmp_path, 1, TINY, workers=1)
    assert len(list(case.glob("BraTS*"))) == 5


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        synthetic.write_cohort(tmp_path / "out", 1, TINY, workers=1)


@pytest.mark.parametrize(
    ("cases", "shape", "seed", "problem"),
    [(0, TINY, 0, "at least 1 case"), (1, (8, 24, 24), 0, "from 16 to 1024"), (1, TINY, -1, "a seed from 0")],
)
def test_arguments_out_of_range(tmp_path, cases, shape, seed, problem):
    with pytest.raises(InputError, match=problem):
        synthetic.write_cohort(tmp_path / "out", cases, shape, seed=seed, workers=1)
    assert not (tmp_path / "out").exists()
