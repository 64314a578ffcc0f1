"""The benchmark's own parts that need no peer."""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path

import numpy as np

BENCH = Path(__file__).parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))
import peers  # noqa: E402


def scene(count: int = 2, side: int = 64) -> peers.Scene:
    from adfast.benchmark import sample_frame

    frames = [sample_frame(side, side) // (i + 1) for i in range(count)]
    return peers.Scene(frames, (32, 32), (28, 28), (4, 4, 60, 60))


def test_peers_are_given_what_pytorch_sees():
    from adfast.data.folder import to_network

    image = scene().prepare()
    expected = [to_network(frame, (32, 32), (28, 28)).numpy() for frame in scene().frames]
    assert image.shape == (2, 3, 28, 28) and image.dtype == np.float32
    # Pillow rounds to whole steps of 1/255, once for each axis.
    assert np.abs(image - np.stack(expected)).max() < 1.6 / 255


def test_maps_of_peers_fill_the_inspected_part():
    flat, other = scene().finish(np.ones((2, 28, 28), np.float32))
    assert flat.shape == other.shape == (64, 64)
    assert np.all(flat[4:60, 4:60] == 1) and flat.sum() == 56 * 56


def test_end_to_end_is_preparation_network_and_finish():
    where = scene()
    peer = peers.Peer(where, lambda x: (x.max((1, 2, 3)), x[:, 0]), where.prepare())
    scores, maps = peer.end_to_end()
    assert np.array_equal(scores, peer.network()[0]) and len(maps) == 2
    assert maps[0].shape == (64, 64)


def test_memory_is_read_in_kilobytes():
    import memory

    before = memory.resident_kb()
    # Straight from the system: malloc may give back what it kept, which is resident already.
    with mmap.mmap(-1, 64 << 20) as pages:
        np.frombuffer(pages, np.uint8)[:] = 1
        assert 63 << 10 <= memory.resident_kb() - before <= 72 << 10
    block = np.ones(64 << 20, np.uint8)
    heap = memory.heap_kb()
    assert heap is None or heap >= block.nbytes >> 10


def test_a_kind_of_machine_is_named_by_what_makes_it_fast():
    import record

    from adfast.benchmark import machine

    host = machine()
    other = host | {"instructions": ["avx2"]}
    assert record.machine_key(host | {"instructions": []}) != record.machine_key(other)
    assert set(host["instructions"]) <= {"avx2", "avx512", "vnni", "bf16", "fp16", "amx"}
    if "cpu family" in Path("/proc/cpuinfo").read_text():
        assert re.search(r", family \d+ model \d+$", host["processor"])
