import benchmark_step
import numpy as np
import pytest
import step_sides

from jaxbrats.model.losses import categorical_focal_loss, dice_loss


def test_both_sides_have_one_loss():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 3, 4, 5, 4)).astype(np.float32), rng.integers(0, 4, (2, 3, 4, 5))
    theirs = step_sides.torch_loss(torch.from_numpy(logits).movedim(-1, 1), torch.from_numpy(labels))
    ours = dice_loss(logits, labels) + categorical_focal_loss(logits, labels)
    assert float(theirs) == pytest.approx(float(ours), rel=1e-6)


def test_work_of_the_network_counted_by_hand():
    # Channels in and out of each level's 3x3x3 convolutions, and of the 1x1x1 ones from the level below.
    levels = [
        ([(3, 16), (16, 16), (32, 16), (16, 16)], [(32, 16), (16, 4)]),
        ([(16, 32), (32, 32), (64, 32), (32, 32)], [(64, 32)]),
        ([(32, 64), (64, 64), (128, 64), (64, 64)], [(128, 64)]),
        ([(64, 128), (128, 128), (256, 128), (128, 128)], [(256, 128)]),
        ([(128, 256), (256, 256)], []),
    ]
    flops = values = 0
    for level, (wide, pointwise) in enumerate(levels):
        voxels = 2 * (32 >> level) ** 3
        flops += voxels * 2 * (27 * sum(a * b for a, b in wide) + sum(a * b for a, b in pointwise))
        values += voxels * sum(a + b for a, b in wide + pointwise)
    assert benchmark_step.network_work(32, 2, 4) == (flops, 4 * values)
