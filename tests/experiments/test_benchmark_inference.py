import benchmark_inference as benchmark
import numpy as np
import pytest

from jaxbrats.data.raw.cases import find_cases
from jaxbrats.inference.predictor import Predictor
from jaxbrats.inference.sliding_window import predict_probabilities

torch = pytest.importorskip("torch")
monai = pytest.importorskip("monai")

torch_unet = pytest.importorskip("torch_unet")


def channels_first(image):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))[None]


@pytest.mark.parametrize(
    ("norm", "activation"), [("none", "relu"), ("instance", "leaky_relu"), ("group", "gelu"), ("batch", "silu")]
)
def test_both_networks_are_one(norm, activation):
    network = benchmark.random_network((8, 8, 8), norm=norm, activation=activation, features=(4, 6))
    image = np.random.default_rng(0).random((8, 12, 8, 4), np.float32)
    peer = torch_unet.TorchUNet(network.model, network.variables)
    with torch.inference_mode():
        theirs = peer(channels_first(image)).softmax(1)[0].movedim(0, -1).numpy()
    np.testing.assert_allclose(Predictor([network], (8, 12, 8))(image), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("shape", "overlap"), [((50, 13, 9), 0.5), ((33, 20, 31), 0.25), ((7, 9, 20), 0.8)])
def test_windows_and_weights_are_monai_s(shape, overlap):
    from monai.inferers import sliding_window_inference

    window = (16, 12, 8)
    ramp = np.linspace(0, 3, 16, dtype=np.float32)[:, None, None, None]

    def ours(windows):
        return np.concatenate([windows + ramp, windows.mean((1, 2, 3), keepdims=True) + 0 * windows], axis=-1)

    def theirs(windows):
        return torch.from_numpy(ours(windows.movedim(1, -1).numpy())).movedim(-1, 1)

    image = np.random.default_rng(0).random((*shape, 2), np.float32)
    expected = sliding_window_inference(channels_first(image), window, 1, theirs, overlap, mode="gaussian")
    result = predict_probabilities(ours, image, window, overlap, on_device=False)
    np.testing.assert_allclose(result, expected[0].movedim(0, -1), rtol=0, atol=2e-6)


def test_both_sides_write_the_same_labels(tiny_cohort, tmp_path):
    network = benchmark.random_network((8, 16, 8), features=(4, 6))
    job = benchmark.Job(find_cases(tiny_cohort).cases[0], network, tmp_path)
    times = {side: benchmark.run(side, job) for side in benchmark.SIDES}
    assert all(0 < one["windows_seconds"] < one["seconds"] for one in times.values())
    assert all(benchmark.agreement(job, side) >= 0.999 for side in benchmark.PEERS)
    report = {
        "rounds": [times],
        "median": times,
        "first_seconds": dict.fromkeys(benchmark.SIDES, 1.0),
        "agreement": dict.fromkeys(benchmark.PEERS, 1.0),
        "peer": benchmark.PEERS[0],
        "ratio": {"median": 2.0, "least": 1.5, "greatest": 2.5},
        "case": benchmark.describe_case(job),
        "network": "tiny",
        "processor": "one",
        "cpus": 1,
        "python": "3",
        "versions": {"jax": "0"},
    }
    text = benchmark.as_markdown(report)
    assert "jaxbrats is 2.00 times as fast as MONAI contiguous (1.50 to 2.50)" in text
    assert "4 modalities of 20x24x18 voxels" in text
