"""Load on a server with OpenAI's interface: requests per second, time to the first token, time between tokens.

    quest serve --model DIR --policy dense &
    python benches/peers/serve_load.py http://127.0.0.1:8000 --clients 1,4,16 --requests 32 --words 200 --new-tokens 64

Works for any such server (`llama-server`, vLLM), so that two are compared by the same requests. Each client sends
its next request when it has the answer to the one before. Prompts begin differently, so that no server has them in a
cache, unless `--shared` gives all of them the same beginning. Prints a line of JSON for each number of clients. The
standard library is all that it needs.
"""

import argparse
import http.client
import json
import random
import threading
import time
import urllib.parse

WORDS = "the river runs past an old tower and under a bridge of stone to the cold sea".split()


def prompt(index, words, shared):
    rng = random.Random(index)
    text = " ".join(rng.choice(WORDS) for _ in range(words))
    if not shared:
        return f"{index} {text}"
    common = random.Random(0)
    return " ".join(common.choice(WORDS) for _ in range(words)) + f" {index}"


def ask(url, body):
    """Seconds to the first token, seconds between tokens, tokens of prompt and answer."""
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=600)
    begun = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {response.read().decode()}")
    times, usage = [], None
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[len(b"data: "):])
        if "error" in chunk:
            raise RuntimeError(chunk["error"])
        usage = chunk.get("usage") or usage
        if chunk["choices"] and chunk["choices"][0]["text"]:
            times.append(time.perf_counter())
    connection.close()
    gaps = [after - before for before, after in zip(times, times[1:])]
    return times[0] - begun, gaps, usage["prompt_tokens"], usage["completion_tokens"]


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def run(url, model, clients, arguments):
    results, errors, lock = [], [], threading.Lock()
    indices = iter(range(arguments.requests))

    def client():
        while True:
            with lock:
                index = next(indices, None)
            if index is None:
                return
            body = {
                "model": model,
                "prompt": prompt(1000 * clients + index, arguments.words, arguments.shared),
                "max_tokens": arguments.new_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            try:
                result = ask(url, body)
            except (OSError, RuntimeError, IndexError) as error:
                errors.append(str(error))
                return
            results.append(result)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    if errors:
        raise SystemExit(f"{len(errors)} requests failed: {errors[0]}")
    first = [result[0] for result in results]
    gaps = [gap for result in results for gap in result[1]]
    milliseconds = lambda value: None if value is None else round(1e3 * value, 1)
    return {
        "clients": clients,
        "requests": len(results),
        "prompt_tokens": round(sum(result[2] for result in results) / len(results)),
        "requests_per_s": round(len(results) / seconds, 2),
        "new_tokens_per_s": round(sum(result[3] for result in results) / seconds, 1),
        "first_token_ms": {"p50": milliseconds(quantile(first, 0.5)), "p99": milliseconds(quantile(first, 0.99))},
        "between_tokens_ms": {
            "p50": milliseconds(quantile(gaps, 0.5)),
            "p99": milliseconds(quantile(gaps, 0.99)),
            "longest": milliseconds(max(gaps, default=None)),
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--words", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--shared", action="store_true", help="all prompts begin with the same text")
    arguments = parser.parse_args()
    url = urllib.parse.urlsplit(arguments.url)
    connection = http.client.HTTPConnection(url.hostname, url.port)
    connection.request("GET", "/v1/models")
    model = json.load(connection.getresponse())["data"][0]["id"]
    for clients in arguments.clients.split(","):
        print(json.dumps({"model": model, **run(url, model, int(clients), arguments)}), flush=True)


if __name__ == "__main__":
    main()
