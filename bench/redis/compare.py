"""wq-run on Redis beside what people use there: messages a second, and what is lost when workers are killed.

    scripts/bench-redis.sh [--messages N] [--kills N] [--seed N]

Each contender runs on a redis-server of its own, with `appendfsync everysec` for all. One process works at a time. A worker
that is killed is killed with all of its processes, as a pod is.
"""

import argparse
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

import redis

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# How long a task takes where workers are killed; slow-line.wat has the same.
SECONDS = 0.05


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, program):
        self.folder = tempfile.TemporaryDirectory()
        self.port = free_port()
        settings = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder.name, "--save", ""]
        settings += ["--appendonly", "yes", "--appendfsync", "everysec"]
        self.process = subprocess.Popen([program, *settings], stdout=subprocess.DEVNULL)
        self.client = redis.Redis(port=self.port)
        while True:
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.02)

    def end(self):
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


class Contender:
    """A kind of worker. `out` is the file that it writes one line a message to."""

    # Whether it prints them, and nothing else. Celery prints a banner.
    prints = True

    def __init__(self, server, out, wq_run):
        self.server, self.out, self.wq_run = server, out, wq_run

    def environment(self, seconds):
        return {**os.environ, "PORT": str(self.server.port), "SECONDS": str(seconds), "OUT": str(self.out)}

    def start(self, seconds, forever=False):
        environment = self.environment(seconds)
        environment["WORKER"] = "--forever" if forever else ""
        log = open(self.server.folder.name + "/log", "ab")
        out = open(self.out, "ab") if self.prints else log
        command = self.command(seconds, forever)
        return subprocess.Popen(command, env=environment, stdout=out, stderr=log, cwd=HERE, start_new_session=True)


class RedisWq(Contender):
    name = "a loop by the scheme of `rediswq.py`"

    def publish(self, texts):
        self.server.client.rpush("jobs", *texts)

    def command(self, seconds, _forever):
        return [sys.executable, "rediswq.py", str(self.server.port), "jobs", str(seconds)]


class CeleryWorker(Contender):
    name, acks = "a Celery worker, as it is by default", "early"
    prints = False

    def environment(self, seconds):
        return {**super().environment(seconds), "ACKS": self.acks}

    def publish(self, texts):
        environment = {**self.environment(0), "TEXTS": "\n".join(texts)}
        code = "import os, tasks\nfor text in os.environ['TEXTS'].split('\\n'): tasks.echo.delay(text)"
        subprocess.run([sys.executable, "-c", code], env=environment, cwd=HERE, check=True)

    def command(self, _seconds, _forever):
        worker = ["-A", "tasks", "worker", "--concurrency", "1", "--without-gossip", "--without-mingle"]
        return [sys.executable, "-m", "celery", *worker, "--loglevel", "WARNING"]


class CeleryLate(CeleryWorker):
    name, acks = "a Celery worker with `task_acks_late`", "late"


class WqRun(Contender):
    name = "`wq-run work --drain`"

    def environment(self, seconds):
        broker = f"redis://127.0.0.1:{self.server.port}"
        return {"BROKER_URL": broker, "QUEUE": "jobs", "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}

    def publish(self, texts):
        environment = self.environment(0)
        subprocess.run([self.wq_run, "queue", "declare"], env=environment, check=True, capture_output=True)
        lines = "\n".join(texts).encode()
        subprocess.run([self.wq_run, "publish", "--lines", "-"], env=environment, input=lines, check=True, capture_output=True)

    def command(self, seconds, forever):
        guest = HERE / "slow-line.wat" if seconds else ROOT / "tests/guests/line.wat"
        mode = ["--forever"] if forever else ["--drain", "--wait", "2s"]
        return [self.wq_run, "work", guest, *mode, "--prefetch", "32" if not seconds else "1", "--result-format", "raw"]


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def end_of(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def until(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def throughput(contender, messages):
    contender.publish([f"message {number}" for number in range(messages)])
    worker = contender.start(0, forever=True)
    size = lambda: contender.out.stat().st_size if contender.out.exists() else 0
    assert until(lambda: size() > 0, 60), "nothing was done"
    began = time.monotonic()
    first = size() // 12
    assert until(lambda: len(lines(contender.out)) >= messages, 300), "not all was done"
    took = time.monotonic() - began
    end_of(worker)
    assert sorted(lines(contender.out)) == sorted(f"message {number}" for number in range(messages))
    return (messages - first) / took


def losses(contender, kills, seed):
    rng = random.Random(seed)
    messages = kills * 8
    texts = [f"message {number}" for number in range(messages)]
    contender.publish(texts)
    for _ in range(kills):
        worker = contender.start(SECONDS, forever=True)
        done = len(lines(contender.out))
        until(lambda: len(lines(contender.out)) > done, 20)
        time.sleep(rng.uniform(0, 3 * SECONDS))
        end_of(worker)
    worker = contender.start(SECONDS, forever=True)
    began = time.monotonic()
    # A minute after the last kill, and until nothing was done for 20 seconds.
    last, at = -1, began
    while time.monotonic() - began < 60 or time.monotonic() - at < 20:
        done = len(lines(contender.out))
        if done != last:
            last, at = done, time.monotonic()
        if set(lines(contender.out)) >= set(texts):
            break
        time.sleep(0.2)
    end_of(worker)
    got = lines(contender.out)
    return messages, len(set(texts) - set(got)), len(got) - len(set(got))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis-server", default="redis-server")
    parser.add_argument("--wq-run", required=True)
    parser.add_argument("--messages", type=int, default=10000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=20261124)
    arguments = parser.parse_args()
    print("| | messages a second | killed | messages | not done a minute later | done twice |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind in [RedisWq, CeleryWorker, CeleryLate, WqRun]:
        speeds = []
        for round in range(arguments.rounds + 1):
            server = Server(arguments.redis_server)
            folder = tempfile.TemporaryDirectory()
            contender = kind(server, pathlib.Path(folder.name) / "out", arguments.wq_run)
            if round < arguments.rounds:
                speeds.append(throughput(contender, arguments.messages))
            else:
                messages, missing, twice = losses(contender, arguments.kills, arguments.seed)
            server.end()
            folder.cleanup()
        speed = sorted(speeds)[len(speeds) // 2]
        print(f"| {kind.name} | {speed:,.0f} | {arguments.kills} times | {messages} | {missing} | {twice} |", flush=True)


main()
