"""Two replicas behind nginx with the configuration of serve/deploy: a conversation stays on its replica, and moves on
when that one ends.

    python serve/tests/replicas.py PATH-OF-QUEST
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

DEPLOY = pathlib.Path(__file__).parent.parent / "deploy"
PORT = 18000
CONVERSATIONS = 12


def ask(url, body=None, headers=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", **(headers or {})}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as reply:
        return reply.read().decode()


def metric(address, name):
    for line in ask(f"{address}/metrics").splitlines():
        if line.startswith(f"quest_{name} "):
            return int(line.split()[1])
    raise AssertionError(f"no metric {name}")


def started(quest):
    replica = subprocess.Popen([quest, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True)
    return replica, replica.stdout.readline().strip()


def router(folder, replicas):
    """nginx with the configuration as it is deployed, but for the names of replicas and where it runs."""
    text = (DEPLOY / "nginx.conf").read_text()
    for i, (_, address) in enumerate(replicas, 1):
        name = f"replica-{i}:8000"
        assert name in text, name
        text = text.replace(name, address.removeprefix("http://"))
    text = text.replace("listen 8000;", f"listen 127.0.0.1:{PORT};")
    text = f"pid {folder}/nginx.pid;\ndaemon off;\nerror_log {folder}/error.log;\n" + text
    text = text.replace("http {", f"http {{\n  access_log off;\n  client_body_temp_path {folder}/body;\n", 1)
    path = pathlib.Path(folder, "nginx.conf")
    path.write_text(text)
    return subprocess.Popen(["nginx", "-p", folder, "-c", str(path)])


def until(condition, what):
    for _ in range(200):
        try:
            if condition():
                return
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.05)
    raise AssertionError(f"{what}: it never came to that")


def continued(conversation, turn):
    body = {"prompt": f"Conversation {conversation} has a prompt that fills some pages of the cache. " * 4, "max_tokens": 4}
    headers = {"x-conversation": str(conversation)}
    answer = json.loads(ask(f"http://127.0.0.1:{PORT}/v1/completions", body, headers))
    prompt = answer["usage"]["prompt_tokens"]
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert answer["choices"][0]["finish_reason"] in ("stop", "length"), answer
    print(f"conversation {conversation}, turn {turn}: {cached} of {prompt} tokens cached")
    return cached / prompt


def main(quest):
    replicas, nginx = [], None
    with tempfile.TemporaryDirectory() as folder:
        # nginx gives its workers up to a user of their own.
        os.chmod(folder, 0o755)
        try:
            replicas += [started(quest) for _ in range(2)]
            nginx = router(folder, replicas)
            until(lambda: ask(f"http://127.0.0.1:{PORT}/health") is not None, "the router answers")
            for conversation in range(CONVERSATIONS):
                # All prompts begin alike, up to the number.
                assert continued(conversation, 1) < 0.2
            for conversation in range(CONVERSATIONS):
                assert continued(conversation, 2) > 0.8, "it came to the replica that has its pages"
            counts = [metric(address, "finished_total") for _, address in replicas]
            print(f"answers of each replica: {counts}")
            assert sum(counts) == 2 * CONVERSATIONS and all(counts), counts

            first, _ = replicas[0]
            first.terminate()
            assert first.wait(60) == 0
            for conversation in range(CONVERSATIONS):
                continued(conversation, 3)
            left = metric(replicas[1][1], "finished_total")
            assert left == counts[1] + CONVERSATIONS, left
            print("one replica ended: all conversations went on")
        finally:
            if nginx:
                nginx.terminate()
                nginx.wait()
            for replica, _ in replicas:
                replica.terminate()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
