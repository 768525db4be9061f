"""Do two versions of the toolkit train and sample the same bits?

    python benchmarks/same_bits.py OUT.json              # digests by this version; run it in each checkout
    python benchmarks/same_bits.py OUT.json --against OTHER.json

Small recipes of five methods train 20 steps on scikit-learn's digits and sample 8 images. Digests are of the
tensors, so files that lie elsewhere or are written otherwise are the same if the weights are. Bits depend on
the machine and its number of threads: compare on one.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

DIGITS = ["data.type=digits", "data.size=16", "data.fit=pad"]
RUNS = {
    "quickstart": [],
    "ddpm_small": DIGITS,
    "importance_small": DIGITS,
    "iwdiff_small": DIGITS,
    "iwdiff_importance_small": DIGITS,
    "improved_ddpm_small": DIGITS,
    "ddgan_digits": [],
    "dcgan_mnist_small": DIGITS,
    "sngan_mnist_small": DIGITS,
}
SHORT = ["run.steps=20", "run.device=cpu", "run.batch_size=8", "samples.num=0"]


def toolkit(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "toolkit", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"toolkit {' '.join(arguments)}: {done.stderr}")


def digest_of_tensors(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        for name, tensor in sorted(load_file(path).items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def digests(recipe: str, overrides: list[str], work: Path) -> dict[str, str]:
    run, grid = work / recipe, work / f"{recipe}.png"
    flags = [f"--set={flag}" for flag in (*SHORT, f"run.out={run}", *overrides)]
    toolkit("train", recipe, *flags)
    toolkit("sample", str(run), "--num", "8", "--device", "cpu", "--out", str(grid))
    checkpoint = run / "checkpoints" / "step-0000020"
    found = {
        folder: digest_of_tensors(list((checkpoint / folder).glob("*.safetensors")))
        for folder in ("networks", "ema", "optimizers")
        if (checkpoint / folder).is_dir()
    }
    return {**found, "samples": hashlib.sha256(grid.read_bytes()).hexdigest()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = {name: digests(name, overrides, Path(work)) for name, overrides in RUNS.items()}
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.against is None:
        return
    before = json.loads(arguments.against.read_text())
    for recipe, now in found.items():
        differing = [what for what, digest in now.items() if digest != before[recipe][what]]
        print(f"{recipe:<26} {'differs in ' + ', '.join(differing) if differing else 'the same bits'}")
    if found != before:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
