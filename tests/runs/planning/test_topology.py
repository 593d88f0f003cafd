import pytest

from jaxbrats.config import Data, Model, Settings
from jaxbrats.runs.planning.topology import plan_topology, shrinking

CUBE, ALL = (2, 2, 2), (3, 3, 3)


def test_a_brain_of_brats_is_halved_five_times():
    topology = plan_topology((1, 1, 1), (138, 173, 138), 6)
    assert topology == ((160, 192, 160), (CUBE,) * 5, (ALL,) * 6)
    assert topology.multiple == (32, 32, 32)
    assert plan_topology((1, 1, 1), (138, 173, 138), 3) == ((140, 176, 140), (CUBE,) * 2, (ALL,) * 3)


def test_an_axis_is_halved_while_four_voxels_are_left():
    topology = plan_topology((1, 1, 1), (64, 64, 12), 6)
    # 12 becomes 6, which has no 8 voxels to halve.
    assert topology.strides == (CUBE, (2, 2, 1), (2, 2, 1), (2, 2, 1))
    assert topology.patch == (64, 64, 12)
    assert plan_topology((1, 1, 1), (7, 7, 7), 6).strides == ()


def test_thick_slices_are_halved_and_convolved_once_the_voxels_are_even():
    topology = plan_topology((1, 1, 5), (128, 128, 24), 6)
    # After two levels the voxels measure 4 x 4 x 5 mm.
    assert topology.strides == ((2, 2, 1), (2, 2, 1), CUBE, CUBE, (2, 2, 1))
    assert topology.kernels == ((3, 3, 1), (3, 3, 1), ALL, ALL, ALL, ALL)
    assert topology.patch == (128, 128, 24)


def test_patches_shrink_along_the_axis_that_is_longest_in_mm():
    patches = [topology.patch for topology in shrinking((1, 1, 1), (138, 173, 138), 6, 0.7)]
    assert patches[:5] == [(160, 192, 160), (160, 160, 160), (128, 160, 160), (128, 128, 160), (128, 128, 128)]
    assert all(size >= 0.7 * side for patch in patches for size, side in zip(patch, (138, 173, 138), strict=True))
    assert next(t.patch for t in shrinking((1, 1, 8), (64, 64, 30), 3, 0.5) if t.patch[2] < 30) == (64, 64, 29)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 5), (3, 0.5, 1)])
def test_every_network_on_the_way_down_is_one_that_settings_take(spacing):
    topologies = list(shrinking(spacing, (138, 173, 60), 6, 0.25))
    assert len(topologies) > 10
    for patch, strides, kernels in topologies:
        features = tuple(range(1, 1 + len(kernels)))
        model = Model(features, dropout=(0.0,), strides=strides, kernels=kernels)
        Settings(data=Data(patch=patch, crop="brain"), model=model)
        assert all(size // factor >= 4 for size, factor in zip(patch, model.downsampling, strict=True) if factor > 1)
