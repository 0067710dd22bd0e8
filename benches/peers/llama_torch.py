"""A decode step of the Llama family written by hand in PyTorch, with dense attention and with Quest
in plain PyTorch operations. Everything lives in fixed tensors, so that a step can be captured."""

from pytorch import F, torch

SHAPES = {
    "llama2-7b": dict(
        layers=32, heads=32, kv=32, d=128, hidden=4096, inter=11008, vocab=32000, theta=1e4, tied=False
    ),
    "llama3-8b": dict(
        layers=32, heads=32, kv=8, d=128, hidden=4096, inter=14336, vocab=128256, theta=5e5, tied=False
    ),
    "llama3.2-1b": dict(
        layers=16, heads=32, kv=8, d=64, hidden=2048, inter=8192, vocab=128256, theta=5e5, tied=True
    ),
    "tiny": dict(
        layers=4, heads=4, kv=2, d=16, hidden=64, inter=128, vocab=256, theta=1e4, tied=False
    ),
}


def rms(x, weight):
    y = x.float()
    return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * weight


def add_rms(hidden, update, weight):
    hidden = hidden + update
    return hidden, rms(hidden, weight)


def silu(gate_up):
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def rotate(heads, cos, sin):
    """heads [b, n, d], cos and sin [d / 2]."""
    a, b = heads.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(heads.dtype)


class Llama:
    """Random weights, and the caches of one context."""

    def __init__(self, bench, name, batch):
        self.bench, self.name, self.batch = bench, name, batch
        for key, value in SHAPES[name].items():
            setattr(self, key, value)
        self.group = self.heads // self.kv
        self.element = torch.empty((), dtype=bench.dtype).element_size()

        def weight(*shape):
            empty = torch.empty(shape, dtype=bench.dtype, device=bench.device)
            return empty.normal_(0, 0.02)

        q, k = self.heads * self.d, self.kv * self.d
        self.embed = weight(self.vocab, self.hidden)
        self.lm_head = self.embed if self.tied else weight(self.vocab, self.hidden)
        self.qkv = [weight(q + 2 * k, self.hidden) for _ in range(self.layers)]
        self.out = [weight(self.hidden, q) for _ in range(self.layers)]
        self.gate_up = [weight(2 * self.inter, self.hidden) for _ in range(self.layers)]
        self.down = [weight(self.hidden, self.inter) for _ in range(self.layers)]
        ones = torch.ones(self.hidden, dtype=bench.dtype, device=bench.device)
        self.norms = [ones.clone() for _ in range(2 * self.layers + 1)]
        self.tokens = torch.zeros(batch, dtype=torch.long, device=bench.device)
        self.functions = dict(rms=rms, add_rms=add_rms, silu=silu, rotate=rotate)
        self.keys = self.values = self.digests = None

    def compile_glue(self):
        """The small functions between the matrix products as single kernels."""
        self.functions = {
            name: torch.compile(function, dynamic=False) for name, function in self.functions.items()
        }

    # ---- bytes, counted as `quest bench decode` counts them

    def weight_bytes(self):
        lists = (self.qkv, self.out, self.gate_up, self.down, self.norms, [self.lm_head])
        n = sum(tensor.numel() for tensors in lists for tensor in tensors)
        return (n + self.batch * self.hidden) * self.element

    def cache_bytes(self, context, page_size):
        """Keys, values and digests that are held."""
        pair = 2 * self.batch * self.kv * self.d * self.element
        return self.layers * (context + context // page_size) * pair

    def step_bytes(self, context, page_size, budget, dense_layers):
        pair = 2 * self.batch * self.kv * self.d * self.element
        dense = self.layers if budget is None else min(dense_layers, self.layers)
        chosen = 0 if budget is None else context // page_size + budget // page_size * page_size
        return self.weight_bytes() + (dense * context + (self.layers - dense) * chosen) * pair

    # ---- caches

    def fill(self, context, page_size):
        """Random tokens; the step writes the last position, so that the last page is full."""
        self.context, self.page_size, self.n_pages = context, page_size, context // page_size
        rows = (self.batch, self.kv, context, self.d)
        self.keys = [self.bench.normal(*rows) for _ in range(self.layers)]
        self.values = [self.bench.normal(*rows) for _ in range(self.layers)]
        position = torch.tensor([context - 1], device=self.bench.device)
        self.position, self.page = position, position // page_size
        half = torch.arange(0, self.d, 2, device=self.bench.device).float() / self.d
        angle = (context - 1) * self.theta**-half
        self.cos, self.sin = angle.cos(), angle.sin()

    def digest(self):
        """[maximum | -minimum] of each page, so that one maximum updates both."""
        shape = (self.batch, self.kv, self.n_pages, self.page_size, self.d)
        self.digests = []
        for keys in self.keys:
            pages = keys.view(shape)
            self.digests.append(torch.cat((pages.amax(3), -pages.amin(3)), -1).contiguous())

    def release(self):
        self.keys = self.values = self.digests = None
        self.bench.free()

    # ---- attention: (layer, query [b, heads, 1, d], key [b, kv, 1, d]) -> [b, heads * d]

    def sdpa(self, query, keys, values):
        out = F.scaled_dot_product_attention(query, keys, values, enable_gqa=self.group > 1)
        return out.reshape(self.batch, -1)

    def dense(self, layer, query, key):
        return self.sdpa(query, self.keys[layer], self.values[layer])

    def select(self, layer, query, key, k):
        """Pages [b, kv, k]; the newest is always in."""
        digest = self.digests[layer]
        newest = digest.index_select(2, self.page)
        digest.index_copy_(2, self.page, torch.maximum(newest, torch.cat((key, -key), -1)))
        query = query.view(self.batch, self.kv, self.group, self.d)
        bound = torch.cat((query, -query), -1).relu()
        scores = (bound @ digest.transpose(-1, -2)).amax(2)
        best = scores[..., :-1].topk(k - 1, -1, sorted=False).indices
        last = torch.full_like(best[..., :1], self.n_pages - 1)
        return torch.cat((best, last), -1)

    def quest(self, k, dense_layers):
        def attention(layer, query, key):
            if layer < dense_layers:
                return self.dense(layer, query, key)
            pages = self.select(layer, query, key, k)
            lists = self.batch * self.kv
            base = torch.arange(lists, device=pages.device).view(self.batch, self.kv, 1)
            flat = (pages + base * self.n_pages).view(-1)
            rows = (self.batch, self.kv, k * self.page_size, self.d)
            width = self.page_size * self.d
            keys = self.keys[layer].view(-1, width).index_select(0, flat).view(rows)
            values = self.values[layer].view(-1, width).index_select(0, flat).view(rows)
            return self.sdpa(query, keys, values)

        return attention

    # ---- the step

    def step(self, attention):
        """Logits [b, vocab] of the next token, which becomes the newest."""
        f = self.functions
        q, k = self.heads * self.d, self.kv * self.d
        hidden = self.embed.index_select(0, self.tokens)
        x = f["rms"](hidden, self.norms[0])
        for layer in range(self.layers):
            qkv = F.linear(x, self.qkv[layer])
            heads = qkv[:, : q + k].view(self.batch, self.heads + self.kv, self.d)
            heads = f["rotate"](heads, self.cos, self.sin)
            query = heads[:, : self.heads].reshape(self.batch, self.heads, 1, self.d)
            key = heads[:, self.heads :].reshape(self.batch, self.kv, 1, self.d)
            value = qkv[:, q + k :].reshape(self.batch, self.kv, 1, self.d)
            self.keys[layer].index_copy_(2, self.position, key)
            self.values[layer].index_copy_(2, self.position, value)
            update = F.linear(attention(layer, query, key), self.out[layer])
            hidden, x = f["add_rms"](hidden, update, self.norms[2 * layer + 1])
            update = F.linear(f["silu"](F.linear(x, self.gate_up[layer])), self.down[layer])
            hidden, x = f["add_rms"](hidden, update, self.norms[2 * layer + 2])
        logits = F.linear(x, self.lm_head)
        self.tokens.copy_(logits.argmax(-1))
        return logits
