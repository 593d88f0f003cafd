"""Names and colours for 3D Slicer and ITK-SNAP, line by line."""

from jaxbrats.data.labels import BRATS_2021, BRATS_2023
from jaxbrats.report.label_tables import itk_snap_table, slicer_table, write_label_tables


def test_slicer_reads_number_name_and_colour():
    assert slicer_table(BRATS_2023).splitlines() == [
        "# Color table file labels.ctbl",
        "# 4 values",
        "0 background 0 0 0 0",
        "1 necrosis_(NCR) 214 42 30 255",
        "2 edema_(ED) 31 168 245 255",
        "3 enhancing_tumour_(ET) 247 181 0 255",
    ]


def test_itk_snap_reads_number_colour_and_name_of_the_numbers_in_the_files():
    lines = itk_snap_table(BRATS_2021).splitlines()
    assert lines[-1] == '4 247 181 0 1 1 1 "enhancing tumour (ET)"'
    assert lines[2] == '0 0 0 0 0 0 0 "background"'


def test_both_lie_beside_the_segmentations(tmp_path):
    write_label_tables(tmp_path, BRATS_2023)
    assert (tmp_path / "labels.ctbl").read_text() == slicer_table(BRATS_2023)
    assert (tmp_path / "labels_itksnap.txt").read_text() == itk_snap_table(BRATS_2023)
