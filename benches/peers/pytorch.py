"""PyTorch as the peers use it. Without it their options can be read all the same: `--help` answers,
and `require` says what is absent."""

import sys

try:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.bias import causal_lower_right
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    torch = F = SDPBackend = sdpa_kernel = causal_lower_right = None

SDPA = {"flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION", "math": "MATH"}


def require():
    if torch is None:
        print("error: expected PyTorch in this Python, found none (PYTHON names another one)", file=sys.stderr)
        sys.exit(2)


def sdpa(row):
    """Within it, SDPA is done by the backend of a row."""
    return sdpa_kernel([getattr(SDPBackend, SDPA[row])])
