"""Every kind of malformed input, and damage at random: always a volume or one line, in bounded time and memory."""

import gzip
import json
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import corpus as malformed
from malformed import kinds

from jaxbrats.data.labels import BRATS_2023
from jaxbrats.data.raw.cases import VolumeFile, find_cases
from jaxbrats.data.raw.nifti import read_channels, read_labels
from jaxbrats.system.errors import InputError

ALL = [(group, kind) for group, some in malformed.CORPUS.items() for kind in some]
FUZZ = settings(max_examples=80, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
IMAGE = gzip.compress(kinds.nifti(kinds.image_voxels(0)), mtime=0)
LABELS = gzip.compress(kinds.nifti(kinds.label_voxels(0), image=nib.Nifti2Image), mtime=0)


def test_there_are_many_kinds_and_each_has_a_name():
    names = [kind.name for _, kind in ALL]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("group", "kind"), ALL, ids=[kind.name.encode().decode("ascii", "replace") for _, kind in ALL])
def test_each_kind_is_taken_or_refused_as_it_should_be(group, kind):
    outcome = malformed.attempt(group, kind)
    assert malformed.faults(kind, outcome) == [], outcome.message
    assert outcome.seconds < 10


def test_the_sound_cases_differ_so_that_a_mix_up_would_show():
    arrays = malformed.sound()
    for good, odd in zip(arrays[kinds.GOOD], arrays[kinds.ODD], strict=True):
        assert good.shape == odd.shape
        assert np.count_nonzero(good != odd) > 10


@pytest.mark.parametrize("name", [kind.name for _, kind in ALL if "claimed" in kind.name or "petabytes" in kind.name])
def test_absurd_sizes_take_no_memory(name, tmp_path):
    (group, kind) = next((group, kind) for group, kind in ALL if kind.name == name)
    malformed.sound()
    tracemalloc.start()
    try:
        malformed.attempt(group, kind)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


@FUZZ
@given(
    flips=st.lists(st.tuples(st.integers(0, len(IMAGE) - 1), st.integers(1, 255)), min_size=1, max_size=3),
    keep=st.one_of(st.just(len(IMAGE)), st.integers(0, len(IMAGE))),
)
def test_any_damage_of_a_gzip_stream_gives_the_same_voxels_or_an_input_error(tmp_path, flips, keep):
    content = bytearray(IMAGE)
    for position, change in flips:
        content[position] ^= change
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content[:keep])
    try:
        (volume,) = read_channels(path, (None,), "case")
    except InputError as error:
        assert (error.file, bool(error.hint)) == (path, True)
        return
    # What the checksum does not cover: the name, time and flags in the stream's own header.
    np.testing.assert_array_equal(volume.data, kinds.image_voxels(0))


@FUZZ
@given(changes=st.lists(st.tuples(st.integers(0, 543), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_of_a_segmentations_header_gives_labels_or_an_input_error(tmp_path, changes):
    content = bytearray(gzip.decompress(LABELS))
    for position, value in changes:
        content[position] = value
    path = tmp_path / "seg.nii.gz"
    path.write_bytes(gzip.compress(content, 1))
    try:
        labels, affine = read_labels(VolumeFile(path), "case", BRATS_2023)
    except InputError as error:
        assert error.hint
        assert str(error).isprintable()
        return
    assert labels.ndim == 3
    assert labels.max() <= 3
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)  # however long
    assert np.linalg.matrix_rank(axes) == 3


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats() | st.sampled_from(["T1", "edema", "necrosis", "0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "1", "edema", "-1", ""]), inner),
    max_leaves=8,
)


@FUZZ
@given(channels=json_values, labels=json_values)
def test_any_dataset_json_gives_cases_or_an_input_error(tmp_path, channels, labels):
    for name in ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": channels, "labels": labels}))
    try:
        cohort = find_cases(tmp_path)
    except InputError as error:
        assert error.hint
        return
    for case in cohort.cases:
        assert set(case.label_map.values()) <= {0, 1, 2, 3}
