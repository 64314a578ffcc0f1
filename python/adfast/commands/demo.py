"""adfast demo: generate images, train, build, predict and evaluate, all in one."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from adfast.errors import AdfastError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="folder for everything (default demo)",
    )
    add(
        "--weights",
        default="none",
        metavar="FILE|none",
        help="ImageNet weights of a ResNet-18 for the frozen trunk; none (default) means random "
        "ones, offline",
    )
    add("--epochs", type=int, default=40, metavar="N", help="default 40")
    add(
        "--size",
        type=int,
        default=128,
        metavar="N",
        help="side of the network's input (default 128)",
    )
    add(
        "--images", type=int, default=120, metavar="N", help="good images to train on (default 120)"
    )
    add("--seed", type=int, default=0, metavar="N", help="default 0")


def run(args: argparse.Namespace) -> int:
    """Run the command: every step is one of adfast's own, echoed as a person would type it."""
    from adfast.data import scenes
    from adfast.predict import make_folder

    if args.images < 10:
        raise AdfastError(f"--images is {args.images}; the demo needs at least 10 good images")
    if args.weights != "none" and not Path(args.weights).is_file():
        raise AdfastError(
            f"--weights {args.weights}: no such file; name one, or none for random weights"
        )
    begin = time.monotonic()
    out: Path = args.out
    make_folder(out)
    data, trained, plan = out / "data", out / "run", out / "flange.plan"

    def step(title: str) -> None:
        print(f"\n[{time.monotonic() - begin:5.0f} s] {title}", flush=True)

    step("drawing images of a machined part")
    scenes.generate(data, train=args.images, seed=args.seed)
    print(f"{data}: good ones to learn from, good and defective ones to test on")

    commands = []

    def adfast(*words: str | Path) -> None:
        from adfast.cli import main

        commands.append(shlex.join(["adfast", *map(str, words)]))
        print(f"$ {commands[-1]}", flush=True)
        code = main([str(word) for word in words])
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise AdfastError(f"stopped: the command above ended with exit code {code}")

    step("training on the good images only")
    # Where it was interrupted, or is made again.
    begun = ("--resume",) if (trained / "last.safetensors").is_file() else ()
    adfast(
        *("train", "gtrans", "--data", data, "--backbone", "resnet18", "--weights", args.weights),
        *("--epochs", args.epochs, "--size", args.size, "--resize", args.size),
        *("--batch", 8, "--seed", args.seed, "--out", trained, *begun),
    )
    step("compiling the plan: calibration on held-out good images, parity, golden frames")
    # f32, so that "does the engine compute what was trained" is answered with many digits.
    adfast("build", trained, "-o", plan, "--precision", "f32")
    step("does this machine compute what was trained?")
    adfast("selftest", plan)
    step("predicting")
    examples = [data / "test" / "good" / "000.png"]
    examples += [data / "test" / defect / "000.png" for defect in scenes.DEFECTS]
    adfast("predict", plan, *examples, "-o", out / "predictions")
    step("measuring")
    _measure(out, plan, data, args.weights, commands)
    step("done. Look at")
    look = (
        (out / "index.html", "frames, maps, overlays, verdicts, figures"),
        (out / "pictures", "the same as PNG files"),
        (out / "predictions", "what adfast predict writes: overlay, raw map, JSON"),
        (f"adfast info {plan}", "what the plan holds"),
    )
    width = max(len(str(what)) for what, _ in look)
    for what, why in look:
        print(f"  {str(what):<{width}}  {why}")
    print("next, on your own good images: adfast train gtrans --data DIR --out RUN")
    return 0


def _measure(out: Path, plan: Path, data: Path, weights: str, commands: list[str]) -> None:
    import adfast
    from adfast import _core, benchmark, demo
    from adfast.commands import eval as eval_command
    from adfast.images import read_image
    from adfast.predict import write_json

    engine = adfast.load(plan)
    commands.append(shlex.join(["adfast", "eval", str(plan), "--data", str(data)]))
    print(f"$ {commands[-1]}", flush=True)
    evaluation = eval_command.evaluate_plan(engine, data)
    write_json(out / "results.json", evaluation)
    print("\n".join(eval_command.lines(evaluation)))
    frame = data / "test" / "good" / "000.png"
    commands.append(shlex.join(["adfast", "bench", str(plan), "--image", str(frame)]))
    print(f"$ {commands[-1]}", flush=True)
    bench = benchmark.measure(engine, read_image(frame), seconds=4)
    write_json(out / "bench.json", bench)
    print("\n".join(benchmark.lines(bench)))
    print(demo.trunk_note(weights))
    contents = _core.read_plan(str(plan))
    demo.write_page(
        out, engine, contents, data, evaluation, bench, engine.self_test(), weights, commands
    )
