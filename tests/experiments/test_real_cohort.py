"""The coarser cohort: means and most frequent labels by hand, where its voxels lie, and going on after a stop."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from jaxbrats.data.labels import MODALITIES
from jaxbrats.data.raw.cases import find_cases
from jaxbrats.system.errors import InputError


@pytest.fixture(scope="module")
def program():
    import real_cohort

    return real_cohort


def test_blocks_by_hand(program):
    volume = np.arange(5 * 2 * 4).reshape(5, 2, 4)
    means = program.blocks_of(volume, 2).mean(-1)
    assert means.shape == (3, 1, 2)
    assert means[0, 0, 0] == volume[:2, :2, :2].mean() and means[1, 0, 1] == volume[2:4, :2, 2:].mean()
    assert means[2, 0, 0] == volume[4:, :2, :2].sum() / 8  # zeros at the end
    labels = np.array([[0, 0, 3, 3], [2, 2, 2, 0], [1, 1, 3, 3], [0, 1, 2, 3]])
    assert program.most_frequent(labels).tolist() == [0, 2, 1, 0]


def test_a_block_lies_where_its_voxels_lay(program):
    affine = np.array([[-1.0, 0, 0, 10], [0, -2.0, 0, 20], [0, 0, 3.0, 30], [0, 0, 0, 1]])
    coarse = program.coarser_affine(affine, 3)
    middle = affine @ [4, 7, 1, 1]  # of the voxels 3-5, 6-8, 0-2
    np.testing.assert_allclose(coarse @ [1, 2, 0, 1], middle)
    np.testing.assert_allclose(nib.affines.voxel_sizes(coarse), [3, 6, 9])


def test_a_cohort(program, tiny_cohort, tmp_path):
    out = tmp_path / "coarse"
    program.FLAGS(["real_cohort", f"--raw={tiny_cohort}", f"--out={out}", "--factor=2"])
    assert program.main() == 0
    found, fine = find_cases(out, MODALITIES), find_cases(tiny_cohort)
    assert [case.name for case in found.cases] == [case.name for case in fine.cases] and not found.problems
    name = found.cases[0].name
    for part in ("t1c", "seg"):
        before, after = (nib.load(folder / name / f"{name}-{part}.nii.gz") for folder in (tiny_cohort, out))
        assert after.shape == (10, 12, 9)
        np.testing.assert_allclose(after.affine, program.coarser_affine(before.affine, 2), atol=1e-4)
    image = np.asarray(nib.load(tiny_cohort / name / f"{name}-t1c.nii.gz").dataobj)
    coarse = nib.load(out / name / f"{name}-t1c.nii.gz").get_fdata()
    assert coarse[4, 5, 6] == pytest.approx(image[8:10, 10:12, 12:14].mean())
    # Again: what is there stays, what is missing is made, the same bytes.
    written = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*.nii.gz")}
    gone = out / name / f"{name}-seg.nii.gz"
    gone.unlink()
    assert program.main() == 0
    assert {path: path.read_bytes() for path in written} == {path: content for path, (content, _) in written.items()}
    kept = [path for path in written if path.parent.name != name]
    assert all(path.stat().st_mtime_ns == written[path][1] for path in kept)


def test_a_case_that_cannot_be_used_is_named_and_the_others_go_on(program, tiny_cohort, tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "coarse"
    first, second, *_ = sorted(tiny_cohort.iterdir())
    for case in (first, second):
        shutil.copytree(case, raw / case.name)
    (raw / first.name / f"{first.name}-seg.nii.gz").unlink()
    program.FLAGS(["real_cohort", f"--raw={raw}", f"--out={out}", "--factor=2"])
    assert program.main() == 1
    shown = capsys.readouterr()
    assert f"not used: case {first.name}: has no segmentation" in shown.err and "1 cases" in shown.out
    assert (out / second.name / f"{second.name}-seg.nii.gz").exists()
    program.FLAGS(["real_cohort", f"--raw={raw}", f"--out={out}", "--factor=3"])
    with pytest.raises(InputError, match="was made with another --factor"):
        program.main()
