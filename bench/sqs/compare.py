"""wq-run on SQS beside npm's sqs-consumer, both on an emulator: messages a second, and what comes of kills and of long tasks.

    scripts/bench-sqs.sh [--messages N] [--kills N] [--seed N]

An emulator answers in a millisecond and AWS in ten or more, so only the two numbers beside each other mean something.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
# The shortest that wq-run takes.
VISIBILITY = 15


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Sqs:
    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.endpoint = f"http://127.0.0.1:{free_port()}"
        port = self.endpoint.rsplit(":", 1)[1]
        settings = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": port, "SERVICES": "sqs,sts", "LOG_LEVEL": "ERROR"}
        program = ROOT / "build/sqs/venv/bin/ministack"
        self.process = subprocess.Popen(
            [program], env={**os.environ, **settings}, cwd=self.folder.name,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        while True:
            try:
                self.ask("ListQueues", {})
                return
            except OSError:
                time.sleep(0.05)

    def ask(self, action, body):
        headers = {"x-amz-target": f"AmazonSQS.{action}", "content-type": "application/x-amz-json-1.0"}
        request = urllib.request.Request(self.endpoint, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read() or b"{}")

    def queue(self, name, messages):
        attributes = {"VisibilityTimeout": str(VISIBILITY)}
        url = self.ask("CreateQueue", {"QueueName": name, "Attributes": attributes})["QueueUrl"]
        for first in range(0, messages, 10):
            numbers = range(first, min(first + 10, messages))
            entries = [{"Id": str(number), "MessageBody": f"m{number}"} for number in numbers]
            self.ask("SendMessageBatch", {"QueueUrl": url, "Entries": entries})
        return url

    def left(self, url):
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.ask("GetQueueAttributes", {"QueueUrl": url, "AttributeNames": names})
        return sum(int(answer["Attributes"][name]) for name in names)

    def end(self):
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def start_wq_run(sqs, name, url, out, milliseconds, args):
    guest = out.parent / "task.wat"
    text = (ROOT / "bench/redis/slow-line.wat").read_text()
    # The guest sleeps for 50 ms; another time takes the place of that number.
    guest.write_text(text.replace("50000000", str(max(1, milliseconds * 1_000_000))))
    broker = f"sqs://us-east-1/000000000000/{name}?endpoint={sqs.endpoint}&visibility_timeout={VISIBILITY}"
    command = [args.wq_run, "work", guest, "--forever", "--concurrency", "10", "--max-attempts", "100"]
    env = {**KEYS, "BROKER_URL": broker, "RUST_LOG": "error", "HOME": str(out.parent)}
    with open(out, "a") as stdout:
        return subprocess.Popen(command, env=env, stdout=stdout, start_new_session=True)


def start_consumer(sqs, name, url, out, milliseconds, args):
    command = ["node", args.consumer, url, out, str(milliseconds)]
    env = {**os.environ, **KEYS, "AWS_ENDPOINT_URL": sqs.endpoint}
    return subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, start_new_session=True)


def kill(worker):
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def measure(sqs, contender, start, args, folder):
    out = lambda what: folder / f"{contender}-{what}"
    row = {}
    url = sqs.queue(f"{contender}-fast", args.messages)
    began = time.monotonic()
    worker = start(sqs, f"{contender}-fast", url, out("fast"), 0, args)
    while sqs.left(url):
        time.sleep(0.02)
    row["messages a second"] = round(args.messages / (time.monotonic() - began))
    kill(worker)

    chance = random.Random(args.seed)
    url = sqs.queue(f"{contender}-killed", 10 * args.kills)
    for _ in range(args.kills):
        worker = start(sqs, f"{contender}-killed", url, out("killed"), 50, args)
        time.sleep(0.5 + chance.random())
        kill(worker)
    worker = start(sqs, f"{contender}-killed", url, out("killed"), 0, args)
    while sqs.left(url):
        time.sleep(0.2)
    kill(worker)
    lines = collections.Counter(out("killed").read_text().split())
    row["lost of"] = f"{10 * args.kills - len(lines)} of {10 * args.kills}"
    row["twice after kills"] = sum(lines.values()) - len(lines)

    # Longer than the visibility timeout, with two workers.
    url = sqs.queue(f"{contender}-long", 4)
    workers = [start(sqs, f"{contender}-long", url, out("long"), 1000 * (VISIBILITY + 10), args) for _ in range(2)]
    until = time.monotonic() + 3 * (VISIBILITY + 10)
    while sqs.left(url) and time.monotonic() < until:
        time.sleep(0.2)
    row["runs of 4 long tasks"] = len(out("long").read_text().split())
    for worker in workers:
        kill(worker)
    return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--wq-run", required=True)
    parser.add_argument("--consumer", required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sqs = Sqs()
        try:
            rows = {
                contender: measure(sqs, contender, start, args, pathlib.Path(folder))
                for contender, start in [("wq-run", start_wq_run), ("sqs-consumer", start_consumer)]
            }
        finally:
            sqs.end()
    names = list(rows["wq-run"])
    print("| | " + " | ".join(rows) + " |")
    print("| --- |" + " --- |" * len(rows))
    for name in names:
        print(f"| {name} | " + " | ".join(str(row[name]) for row in rows.values()) + " |")


main()
