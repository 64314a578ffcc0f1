"""Training in two processes under torchrun, on gloo: the same training as in one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tiny_runs import assert_losses_agree, make_images  # noqa: E402

from adfast import cli, models  # noqa: E402
from adfast.training import checkpoint  # noqa: E402
from adfast.training.ranks import Ranks  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    # 9 train, 2 validate: with batches of 4, shares of 2 + 2, and of 1 + none at the end.
    return make_images(tmp_path_factory.mktemp("data"), 11)


def words(model, data, out, epochs=2):
    found = ["train", model, "--data", data, "--out", out, "--weights", "none", "--batch", "4"]
    found += ["--backbone", "resnet18", "--size", "32", "--epochs", epochs, "--precision", "f32"]
    if model == "adtr":
        found += ["--levels", "1,2", "--dropout", "0", "--lr", "0.001"]
    return [str(word) for word in found]


def torchrun(arguments):
    env = {**os.environ, "PYTHONPATH": str(ROOT / "python"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return subprocess.Popen(
        [*command, "-m", "adfast", *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process, seconds=240):
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


@pytest.fixture(scope="module")
def one(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "one"
    assert cli.main(words("adtr", data, out)) == 0
    return out


def test_two_processes_train_as_one(data, one, tmp_path):
    out = tmp_path / "two"
    process = torchrun(words("adtr", data, out))
    printed, errors = finish(process)
    assert process.returncode == 0, errors
    # Adam divides a gradient by its own size: where it is all rounding, which batches of other
    # sizes do differently on some processors, so is the step.
    assert_losses_agree(out, one, 5e-4)
    # Told once, by the first.
    assert printed.count("best epoch") == 1 and errors.count("epoch 2/2: loss") == 1
    assert "cpu in 2 processes" in errors
    info, expected = (json.loads((run / "config.json").read_text()) for run in (out, one))
    assert info["finished"] and info["config"] == expected["config"]
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (_, found), (_, wanted) = (models.load_run(run)[0](images) for run in (out, one))
    assert (found - wanted).abs().max() < 1e-3 * wanted.max()
    # And one process goes on with it.
    assert cli.main(["train", "--out", str(out), "--resume", "--epochs", "3"]) == 0
    assert len(checkpoint.read_history(out / "history.jsonl")) == 3


def processes_of(out):
    """The training processes that write to a run, by their rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            if str(out).encode() in command and b"torch.distributed.run" not in command:
                variables = (entry / "environ").read_bytes().split(b"\0")
                ranks = [v for v in variables if v.startswith(b"RANK=")]
                found[int(ranks[0].split(b"=")[1])] = int(entry.name)
        except (OSError, IndexError, ValueError):
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_a_dying_process_ends_all_and_ctrl_c_saves(data, tmp_path):
    """GTrans: with BatchNorm, whose statistics are those of the first process."""
    out = tmp_path / "run"
    process = torchrun(words("gtrans", data, out, epochs=500))
    wait_for(out / "last.safetensors", process)
    ranks = processes_of(out)
    assert ranks.keys() == {0, 1}
    os.kill(ranks[1], signal.SIGKILL)
    began = time.monotonic()
    _, errors = finish(process, 60)
    assert process.returncode != 0 and time.monotonic() - began < 45
    assert "Signal 9 (SIGKILL) received by PID" in errors or "lost the other processes" in errors
    assert not processes_of(out)
    model, info = models.load_run(out)
    assert not info["finished"]
    state = model.state_dict()
    assert any(v.abs().sum() > 0 for k, v in state.items() if k.endswith("running_mean"))

    kept = len(checkpoint.read_history(out / "history.jsonl"))
    process = torchrun(["train", "--out", str(out), "--resume"])
    deadline = time.monotonic() + 120
    while len(checkpoint.read_history(out / "history.jsonl")) <= kept + 1:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # torchrun hands it on
    _, errors = finish(process, 60)
    assert f"--out {out} --resume" in errors and not processes_of(out)
    history = checkpoint.read_history(out / "history.jsonl")
    assert [record["epoch"] for record in history] == list(range(1, len(history) + 1))


def wait_for(path, process, seconds=240):
    deadline = time.monotonic() + seconds
    while not path.is_file():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)


def test_an_error_is_said_by_the_process_that_has_it(data, tmp_path):
    process = torchrun([*words("adtr", data / "none", tmp_path / "run")])
    _, errors = finish(process)
    assert process.returncode != 0
    assert "no good images to train on" in errors and not (tmp_path / "run").exists()


def test_shares_make_up_the_batch():
    for count, size in ((4, 2), (5, 2), (1, 2), (7, 3), (2, 5)):
        indices = torch.arange(10, 10 + count)
        seen, total = [], 0.0
        for rank in range(size):
            ranks = Ranks("cpu")
            assert (ranks.rank, ranks.size) == (0, 1)
            ranks.rank, ranks.size = rank, size
            mine, share = ranks.share(indices)
            assert len(mine) > 0
            if share:
                assert share == pytest.approx(len(mine) / count)
                seen += mine.tolist()
            total += share
        assert seen == indices.tolist() and total == pytest.approx(1)
