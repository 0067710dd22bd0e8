"""What the peer benchmarks share: options, timing, and the JSON lines of `quest bench --json`."""

import argparse
import datetime
import gc
import json
import subprocess
import sys
import time

import pytorch
from pytorch import torch

ROTATED_BYTES = 256 << 20  # several times a last-level cache
MAX_ROTATION = 64
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
DTYPES = {"f16": "float16", "bf16": "bfloat16", "f32": "float32"}
# How far results may be from those in f32, over their size.
TOLERANCES = {"f16": 4e-3, "bf16": 3e-2, "f32": 1e-4}


def size(text):
    """4096, 4K, 1M; 60GB."""
    number = text.removesuffix("B")
    factor = UNITS.get(number[-1:], 1)
    try:
        value = int(number.rstrip("KMG")) * factor
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a size such as 4096, 4K or 60GB, found {text}")
    return value


def sizes(text):
    return [size(part) for part in text.split(",")]


def names(text):
    return text.split(",")


def heads(text):
    """32:32,32:8 as query heads and KV heads."""
    pairs = []
    for part in text.split(","):
        query, _, kv = part.partition(":")
        if not (query.isdigit() and kv.isdigit() and int(kv) and not int(query) % int(kv)):
            raise argparse.ArgumentTypeError(f"expected heads as in 32:8, found {part}")
        pairs.append((int(query), int(kv)))
    return pairs


def arguments(description, only):
    """A parser with the options of every peer."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--contexts", type=sizes, default=[32768, 131072])
    parser.add_argument("--budgets", type=sizes, default=[2048])
    parser.add_argument("--batch", type=sizes, default=[1])
    parser.add_argument("--page-size", type=int, default=16)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="f16")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--launch", type=names, default=["graph", "plain"])
    parser.add_argument("--only", type=names, default=only, help="rows to measure")
    parser.add_argument("--minutes", type=float, default=None, help="begins nothing after these")
    parser.add_argument("--memory-limit", type=size, default=None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--round-ms", type=float, default=10.0)
    return parser


def parse(parser, only):
    options = parser.parse_args()
    pytorch.require()
    for option, given, known in (
        ("--only", options.only, only),
        ("--launch", options.launch, ["graph", "plain"]),
    ):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error(f"{option}: expected {', '.join(known)}, found {', '.join(unknown)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected a CUDA device that PyTorch sees, found none")
    return options


class Timed:
    """Microseconds per call over the rounds, and the outputs of the last calls."""

    def __init__(self, rounds_us, outputs, once=None):
        ordered = sorted(rounds_us)
        # Runs what was timed one more time; its outputs are then those of `outputs`.
        self.replay = once

        def quantile(q):
            at = q * (len(ordered) - 1)
            low, high = ordered[int(at)], ordered[-int(-at // 1)]
            return low + (high - low) * (at - int(at))

        self.outputs = outputs
        self.fields = {
            "median_us": quantile(0.5),
            "min_us": ordered[0],
            "max_us": ordered[-1],
            "q1_us": quantile(0.25),
            "q3_us": quantile(0.75),
            "rounds": len(ordered),
        }

    def once(self):
        """The outputs of the last input after one more run."""
        self.replay()
        return self.outputs[-1][1]


class Bench:
    """Times calls and prints lines."""

    def __init__(self, options):
        self.options = options
        self.device = options.device
        self.dtype = getattr(torch, DTYPES[options.dtype])
        self.is_cuda = options.device == "cuda"
        self.end = time.monotonic() + options.minutes * 60 if options.minutes is not None else None
        self.copy_gb_per_s = None
        self.environment = environment(self.is_cuda)
        torch.set_grad_enabled(False)
        torch.manual_seed(int(time.time()))

    def memory_limit(self):
        if self.options.memory_limit:
            return self.options.memory_limit
        if self.is_cuda:
            return int(0.85 * torch.cuda.mem_get_info()[1])
        return 4 << 30

    def is_late(self):
        return self.end is not None and time.monotonic() > self.end

    def sync(self):
        if self.is_cuda:
            torch.cuda.synchronize()

    def free(self):
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()

    def normal(self, *shape):
        return torch.randn(shape, dtype=self.dtype, device=self.device)

    # ---- timing

    def plain(self, call, rotation):
        """Calls that the host issues one by one, over the inputs in turn."""
        count = 0

        def timed(n):
            nonlocal count
            self.sync()
            start = time.perf_counter()
            for _ in range(n):
                output = call(count % rotation)
                count += 1
            self.sync()
            return time.perf_counter() - start, ((count - 1) % rotation, output)

        timed(rotation)
        n = self.calls(timed(3)[0] / 3)
        rounds = [timed(n) for _ in range(self.options.rounds)]
        return Timed([seconds / n * 1e6 for seconds, _ in rounds], [rounds[-1][1]])

    def graph(self, call, rotation):
        """Replays of a CUDA graph of one call per input; nothing without CUDA."""
        if not self.is_cuda:
            return None
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for i in range(min(rotation, 3)):
                call(i)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = [call(i) for i in range(rotation)]
        for output in outputs:
            poison(output)

        def timed(n):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(n):
                graph.replay()
            torch.cuda.synchronize()
            return time.perf_counter() - start

        timed(2)
        n = max(3, self.calls(timed(3) / 3))
        rounds = [timed(n) / (n * rotation) * 1e6 for _ in range(self.options.rounds)]
        return Timed(rounds, [(0, outputs[0]), (rotation - 1, outputs[-1])], graph.replay)

    def calls(self, seconds):
        return max(1, min(2000, int(self.options.round_ms / 1e3 / max(seconds, 1e-9)) + 1))

    # ---- lines

    def emit(self, timed=None, bytes_moved=None, **fields):
        line = dict(self.environment, **fields)
        if timed is not None:
            line.update(timed.fields)
            if bytes_moved is not None:
                gb_per_s = bytes_moved / timed.fields["median_us"] / 1e3
                line.update(bytes=bytes_moved, gb_per_s=gb_per_s)
                if self.copy_gb_per_s:
                    line["copy_share"] = gb_per_s / self.copy_gb_per_s
        print(json.dumps(line), flush=True)

    def skip(self, reason, **fields):
        say(f"skipped: {fields}: {reason}")
        self.emit(kind="skipped", reason=reason, **fields)

    def bandwidth(self):
        """A device copy and a read-only reduction."""
        n = (1 << 28) if self.is_cuda else (1 << 24)
        source = torch.rand(n, dtype=torch.float32, device=self.device)
        target = torch.empty_like(source)
        best = self.graph if self.is_cuda else self.plain
        launch = "graph" if self.is_cuda else "plain"
        copy = best(lambda _: target.copy_(source), 4)
        if not torch.equal(source, target):
            raise SystemExit("copy: expected the source's elements, found others")
        self.copy_gb_per_s = 8 * n / copy.fields["median_us"] / 1e3
        common = dict(kind="bandwidth", implementation="pytorch", launch=launch, dtype="f32")
        self.emit(copy, 8 * n, operation="copy", **common)
        read = best(lambda _: source.sum(), 4)
        self.emit(read, 4 * n, operation="read", **common)
        del source, target
        self.free()


def poison(output):
    for tensor in output if isinstance(output, (tuple, list)) else [output]:
        if tensor is not None:
            tensor.fill_(float("nan") if tensor.is_floating_point() else -1)


def relative_error(found, expected):
    """|found - expected| / |expected|; infinite where something is not a number."""
    found, expected = found.double().flatten(), expected.double().flatten()
    error = float((found - expected).norm() / expected.norm())
    return error if error == error else float("inf")


def say(text):
    print(text, file=sys.stderr, flush=True)


def environment(is_cuda):
    now = datetime.datetime.now(datetime.timezone.utc)
    fields = {
        "version": torch.__version__,
        "date": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": torch.cuda.get_device_name() if is_cuda else processor(),
        "backend": "cuda" if is_cuda else "cpu",
    }
    driver = is_cuda and command(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    )
    if driver:
        fields["driver"] = driver.splitlines()[0].strip()
    return fields


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"
    return f"{name.split(':')[1].strip()}, {torch.get_num_threads()} threads"


def command(arguments, seconds=60):
    """What a program prints; nothing where it is absent or fails."""
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=seconds)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def message(error):
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
