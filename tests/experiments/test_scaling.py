"""The model of a step on many GPUs, against numbers worked out by hand."""

import math

import pytest
import scaling
import scaling_model as model


@pytest.fixture(scope="module")
def links():
    return model.Links("test", 4, 100.0, 10.0, share=0.5, latency_inside=1.0, latency_between=10.0)


def test_one_gpu_has_nothing_to_send(links):
    step = model.Step(3.0, 1000.0)
    assert model.allreduce_seconds(1000.0, 1, links) == 0
    assert model.step_seconds(step, 1, links) == 3.0
    assert model.efficiency(step, 1, links) == 1.0


def test_gradients_inside_and_between_machines(links):
    # 2 * 3/4 of 1000 bytes at 50 a second, and 6 messages of 1 second.
    assert model.allreduce_seconds(1000.0, 4, links) == pytest.approx(30 + 6)
    # And 2 * 7/8 of a quarter of them at 5 a second, up and down a tree of 8 machines: 6 messages of 10 seconds.
    assert model.allreduce_seconds(1000.0, 32, links) == pytest.approx(36 + 87.5 + 60)


def test_a_split_volume(links):
    step = model.Step(80.0, 0.0, space=4, halo_bytes=50.0, halo_messages=2, deviation=0.1)
    expected = 20 + (1 + 2) + 6 + 2 * math.sqrt(2 * math.log(4))
    assert model.step_seconds(step, 4, links) == pytest.approx(expected)
    assert model.efficiency(step, 4, links) == pytest.approx(20 / expected)
    with pytest.raises(ValueError, match="6 GPUs of 4 a machine cannot hold volumes on 4 each"):
        model.step_seconds(step, 6, links)


def test_efficiency_falls_with_the_number_of_gpus():
    step = model.Step(0.1, 22.6e6)
    for cluster in model.CLUSTERS:
        shares = [model.efficiency(step, 2**power, cluster) for power in range(11)]
        assert shares == sorted(shares, reverse=True)


def test_what_a_program_sends_is_read_off_its_text():
    text = """
  %a = f32[1,2,3]{2,1,0} collective-permute(f32[1,2,3]{2,1,0} %x), channel_id=1
  %b = (f32[10]{0}, bf16[4]{0}) all-reduce(f32[10]{0} %y, bf16[4]{0} %z), channel_id=2
  %c = f32[8]{0} add(f32[8]{0} %y, f32[8]{0} %z)
  %d = f32[] all-reduce(f32[] %s), channel_id=3
"""
    assert scaling.sent(text) == {
        "collective-permute": {"count": 1, "bytes": 24},
        "all-reduce": {"count": 2, "bytes": 52},
    }
