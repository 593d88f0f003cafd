"""The example that runs an exported network without the package: the labels of `jaxbrats predict`."""

import nibabel as nib
import numpy as np
import onnx_window

from jaxbrats import commands


def test_it_segments_as_the_package(tiny_run, tiny_cohort, tmp_path):
    """On files that are turned and resampled first, a patient that is larger than a window."""
    case = sorted(tiny_cohort.iterdir())[1]
    for path in case.glob("*.nii.gz"):
        image = nib.load(path)
        turned = image.as_reoriented(np.array([[1, -1], [2, 1], [0, 1]]))
        header = turned.affine @ np.diag([1.25, 0.9, 1, 1])
        (tmp_path / case.name).mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(np.asarray(turned.dataobj), header), tmp_path / case.name / path.name)
    assert commands.run(["export", f"--workdir={tiny_run}", f"--out={tmp_path / 'model.onnx'}"]) == 0
    arguments = [f"--workdir={tiny_run}", f"--input={tmp_path / case.name}", f"--output={tmp_path}"]
    assert commands.run(["predict", *arguments]) == 0
    expected = nib.load(tmp_path / f"{case.name}.nii.gz")
    found = onnx_window.segment(str(tmp_path / "model.onnx"), str(tmp_path / case.name))
    labels = np.asarray(expected.dataobj)
    assert len(np.unique(labels)) > 1
    assert np.mean(labels == found.get_fdata()) > 0.999
    np.testing.assert_array_equal(found.affine, expected.affine)
