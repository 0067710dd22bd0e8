"""Writes blocks/: blocks of each format and the weights that the package `gguf` 0.19.0 makes of them.

    pip install gguf==0.19.0 && python blocks.py
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize

# Where the 16-bit floats of a block lie.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0],
}

folder = Path(__file__).parent / "blocks"
folder.mkdir(exist_ok=True)
rng = np.random.default_rng(0)
for name in ["F32", "F16", "BF16", *SCALES]:
    format = Type[name]
    weights, size = GGML_QUANT_SIZES[format]
    n = 512 // weights
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    if name in ["F32", "F16", "BF16"]:
        floats = rng.normal(0, 1, n).astype(np.float32)
        bits = {"F32": floats, "F16": floats.astype(np.float16), "BF16": (floats.view(np.uint32) >> 16).astype(np.uint16)}
        blocks = bits[name].view(np.uint8).reshape(n, size)
    for at in SCALES.get(name, []):
        scales = rng.normal(0, 0.01, n).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(n, 2)
    (folder / f"{name}.blocks").write_bytes(blocks.tobytes())
    widened = dequantize(blocks.reshape(-1) if weights == 1 else blocks, format)
    (folder / f"{name}.f32").write_bytes(widened.astype("<f4").tobytes())
