"""A smoke figure of ADTR's CIFAR-10 protocol, on as many of its images as are at hand.

    python bench/cifar10.py --data DIR --weights FILE [--normal airplane frog] [--epochs 4]

DIR holds labels.npy and sheets of CIFAR-10's images, cifar10_batch_*.png, one image a row. The last
quarter of them stands for the test file and the rest for the training files; from there on all is
the product's: `adfast cifar10`, `adfast train adtr --cifar10` with a ResNet-18 from FILE, a plan
and its evaluation, beside that of the same model untrained. A small part of the data, a small trunk
and few epochs: it shows that the protocol runs, not what the paper's model reaches. Writes
bench/results/cifar10.json, from which bench/tables.py makes a line of the README.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import adfast
from adfast import cli, evaluate
from adfast.benchmark import machine
from adfast.bootstrap import Bootstrap
from adfast.build import build
from adfast.data.cifar import NAMES, RECORD, SIDE, TEST, TRAINING
from adfast.files import atomic_write
from adfast.images import read_image

sys.path.insert(0, str(Path(__file__).parent))
from accuracy import settings_of, untrained
from record import commit

RESULTS = Path(__file__).parent / "results" / "cifar10.json"
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
TRAIN = "--backbone resnet18 --levels 0,1,2,3 --batch 8 --lr 3e-4".split()


def write_records(path: Path, labels: np.ndarray, images: np.ndarray) -> None:
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), RECORD - 1)
    path.write_bytes(np.column_stack([labels, planes]).tobytes())


def write_binary_version(source: Path, folder: Path) -> tuple[int, int]:
    """Write the files that CIFAR-10 is published as -> how many images train and test."""
    sheets = [read_image(path) for path in sorted(source.glob("cifar10_batch_*.png"))]
    images = np.concatenate([sheet.reshape(-1, SIDE, SIDE, 3) for sheet in sheets])
    labels = np.load(source / "labels.npy").astype(np.uint8)
    folder.mkdir()
    (folder / NAMES).write_text("\n".join(CLASSES) + "\n")
    count = len(images) * 3 // 4
    for name, part in zip(TRAINING, np.array_split(np.arange(count), len(TRAINING)), strict=True):
        write_records(folder / name, labels[part], images[part])
    write_records(folder / TEST, labels[count:], images[count:])
    return count, len(images) - count


def measure(normal: str, scratch: Path, weights: str, epochs: int) -> dict:
    data, run, plan = (scratch / f"{normal}{end}" for end in (".data", ".run", ".plan"))
    make = ["cifar10", scratch / "binary", "--normal", normal, "--out", data]
    learn = ["train", "adtr", "--cifar10", "--data", data, "--out", run, "--weights", weights]
    learn += [*TRAIN, "--epochs", epochs]
    for words in (make, learn):
        if cli.main([str(word) for word in words]):
            raise SystemExit(f"adfast {words[0]} failed")
    built = build(run, plan)
    found = evaluate.evaluate(adfast.load(plan), data, how=Bootstrap())
    info = json.loads((run / "config.json").read_text())
    return {
        "train_images": len(info["data"]["train"]),
        "validation_images": len(info["data"]["validation"]),
        "test_images": found["images"],
        "epochs": epochs,
        "training": {k: info["training"][k] for k in ("batch", "lr", "seed", "precision")},
        "config": info["config"],
        "precision": built["precision"],
        "image_auroc": found["metrics"]["image_auroc"],
        "interval": found["intervals"]["image_auroc"],
        **{k: v["image_auroc"] for k, v in untrained(settings_of(run), data, None).items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", required=True, help="of the ResNet-18")
    parser.add_argument("--normal", nargs="+", default=["airplane", "frog"], choices=CLASSES)
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        training, test = write_binary_version(args.data, scratch / "binary")
        found = {
            "command": "python bench/cifar10.py",
            "commit": commit(),
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "model": "ADTR-R18",
            "images": {"training files": training, "test file": test},
            "classes": {},
        }
        for normal in args.normal:
            found["classes"][normal] = measure(normal, scratch, args.weights, args.epochs)
            print(normal, json.dumps(found["classes"][normal], indent=1), flush=True)
    with atomic_write(RESULTS, "w") as file:
        json.dump(found, file, indent=1)
        file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
