"""adfast bench --stream: cameras at their rate, every frame accounted for."""

import json

import pytest

from adfast import cli

OUTCOMES = ("completed", "failed", "dropped_oldest", "dropped_newest", "rejected", "expired")


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "error"])
def test_cameras_at_their_rate(tiny_plan, policy, capsys):
    words = ["bench", str(tiny_plan), "--stream", "--cameras", "3", "--fps", "40"]
    assert cli.main([*words, "--policy", policy, "--seconds", "0.5", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    counters = result["counters"]
    # Three times 40 frames a second for half of one, less what a busy machine comes too late for.
    assert 3 <= counters["submitted"] <= 63
    assert sum(counters[name] for name in OUTCOMES) == counters["submitted"]
    assert result["latency_ms"]["max"] >= result["latency_ms"]["min"] > 0
    assert result["latency_ms"]["mean"] >= result["queue_ms"]["mean"]
    assert result["protocol"]["policy"] == policy


def test_as_fast_as_it_can(tiny_plan, capsys):
    words = ["bench", str(tiny_plan), "--stream", "--fps", "0", "--seconds", "0.2"]
    assert cli.main([*words, "--policy", "block"]) == 0
    text = capsys.readouterr().out
    assert "as fast as they can" in text and "submit to result" in text
    assert cli.main(words) == 1
    assert "only fill the queue" in capsys.readouterr().err
    assert cli.main([*words[:-2], "--cameras", "0"]) == 1
