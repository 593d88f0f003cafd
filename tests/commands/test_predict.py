import shutil

import nibabel as nib
import numpy as np
import pytest

from jaxbrats import commands
from jaxbrats.data.arrays import find_arrays, read_image
from jaxbrats.data.preprocess import CropBox, paste
from jaxbrats.inference.network import load_network, make_predict


def predict(run, source, output, *more):
    return commands.run(["predict", f"--workdir={run}", f"--input={source}", f"--output={output}", *more])


def test_a_cohort(tiny_run, tiny_cohort, tiny_data, tmp_path, capsys):
    assert predict(tiny_run, tiny_cohort, tmp_path) == 0
    assert "8 of 8 cases segmented" in capsys.readouterr().out
    network_labels = make_predict([load_network(tiny_run)])
    for case in find_arrays(tiny_data):
        written = nib.load(tmp_path / f"{case.name}.nii.gz")
        source = nib.load(tiny_cohort / case.name / f"{case.name}-t2f.nii.gz")
        assert written.shape == source.shape
        assert written.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(written.affine, source.affine)
        assert nib.aff2axcodes(written.affine) == nib.aff2axcodes(source.affine)
        assert written.header["qform_code"] == source.header["qform_code"]
        # What the network says of the training array, put back where the crop was taken.
        box = CropBox.about_centre(source.shape, (16, 16, 16))
        expected = paste(network_labels(read_image(case)), box)
        np.testing.assert_array_equal(np.asarray(written.dataobj), expected)
        assert (tmp_path / f"{case.name}.png").stat().st_size > 10_000


def test_one_case_without_segmentation_and_the_2021_numbers(tiny_run, tiny_cohort, tmp_path):
    name = sorted(path.name for path in tiny_cohort.iterdir())[0]
    shutil.copytree(tiny_cohort / name, tmp_path / name)
    (tmp_path / name / f"{name}-seg.nii.gz").unlink()
    assert predict(tiny_run, tmp_path / name, tmp_path / "new") == 0
    assert predict(f"{tiny_run},{tiny_run}", tmp_path / name, tmp_path / "old", "--labels=2021") == 0
    new, old = (np.asarray(nib.load(tmp_path / side / f"{name}.nii.gz").dataobj) for side in ("new", "old"))
    np.testing.assert_array_equal(np.where(new == 3, 4, new), old)


def test_bad_cases_are_named_and_the_others_go_on(tiny_run, tiny_cohort, tmp_path, capsys):
    shutil.copytree(tiny_cohort, tmp_path / "raw")
    first, second, *_ = sorted(path.name for path in (tmp_path / "raw").iterdir())
    (tmp_path / "raw" / first / f"{first}-t1c.nii.gz").unlink()
    broken = tmp_path / "raw" / second / f"{second}-t2f.nii.gz"
    broken.write_bytes(broken.read_bytes()[:300])
    assert predict(tiny_run, tmp_path / "raw", tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert "6 of 8 cases segmented" in shown.out
    assert f"case {first}" in shown.err
    assert "t1c" in shown.err
    assert str(broken) in shown.err
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--workdir": "/nowhere"}, "/nowhere: holds no config.json"),
        ({"--input": "/nowhere"}, "/nowhere"),
        ({"--step": "12345"}, "there is no checkpoint '12345'"),
    ],
)
def test_mistakes(tiny_run, tiny_cohort, tmp_path, capsys, change, message):
    flags = {"--workdir": tiny_run, "--input": tiny_cohort, "--output": tmp_path, "--step": "best"} | change
    assert commands.run(["predict", *(f"{name}={value}" for name, value in flags.items())]) == 1
    assert message in capsys.readouterr().err
