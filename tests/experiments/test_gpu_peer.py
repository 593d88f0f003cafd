"""What PyTorch's operators move: by hand for a few, and how it grows with the volume."""

import pytest

torch = pytest.importorskip("torch")
gpu_peer = pytest.importorskip("gpu_peer")


def test_each_operator_is_a_pass_and_each_gradient_of_a_convolution_one():
    with gpu_peer.FakeTensorMode():
        kernel, bias = torch.empty(3, 2, 1, 1, 1, requires_grad=True), torch.empty(3, requires_grad=True)
        image = torch.empty(1, 2, 4, 4, 4, requires_grad=True)
        with gpu_peer.Passes() as passes:
            made = torch.relu_(torch.nn.functional.conv3d(image, kernel, bias)).view(3, 64)
            made.backward(torch.empty(3, 64))
    given, out, weights = 128, 192, 6
    forward = given + weights + 3 + out
    backward = (out + weights + given) + (out + given + weights) + (out + 3)
    assert passes.bytes["convolution"] == 4 * (forward + backward)
    assert passes.kernels["convolution"] == 4
    # The activation in place reads and writes; its gradient reads two and writes one. Views are free.
    assert passes.bytes[gpu_peer.OTHER] == 4 * (2 * out + 3 * out)
    assert set(passes.kernels) == {"convolution", gpu_peer.OTHER}


def test_a_copy_reads_its_source_alone_and_an_expanded_axis_is_one_element():
    with gpu_peer.FakeTensorMode():
        into, row = torch.empty(8, 16), torch.empty(16)
        with gpu_peer.Passes() as passes:
            into.copy_(row.expand(8, 16))
    assert dict(passes.bytes) == {"transpose, copy": 4 * (16 + 128)}


@pytest.mark.parametrize("network", gpu_peer.NETWORKS)
def test_a_step_moves_what_its_volume_asks(network):
    if network != "the same network":
        pytest.importorskip("monai")
    small, large = (
        gpu_peer.estimate(gpu_peer.NETWORKS[network], torch.contiguous_format, size, 1) for size in (32, 64)
    )
    assert small["kernels"] == large["kernels"]
    assert small["bytes"]["optimiser"] == large["bytes"]["optimiser"]
    for kind in ("normalisation, reduction", gpu_peer.OTHER):
        assert large["bytes"][kind] == pytest.approx(8 * small["bytes"][kind], rel=0.02)
