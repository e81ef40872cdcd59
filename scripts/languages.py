#!/usr/bin/env python3
"""Measures what the example guests cost, and writes the table of docs/languages.md: `make languages`.

    scripts/languages.py [WQ_RUN]

WQ_RUN is an optimised build, target/release/wq-run if nothing is said. A guest that is not built is left out of the table, and
so is one that this build refuses; both are said. The table says on what it was measured.
"""

import http.server
import json
import os
import pathlib
import platform
import resource
import socketserver
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/languages.md"
BEGIN, END = "<!-- costs: written by `make languages` -->", "<!-- end of costs -->"

# Each is repeated, and the least counts: what else the machine does only ever adds.
STARTS = 20
ROUNDS = 5
FEW, MANY = 100, 600
# What takes longer is compiled once.
LONG = 5
QUEUE = {"QUEUE": "costs", "RUST_LOG": "warn"}


class Redis(socketserver.StreamRequestHandler):
    """As much of a Redis as a lookup needs."""

    def handle(self) -> None:
        for _ in range(5):
            self.rfile.readline()
        self.wfile.write(b"$5\r\nvalue\r\n")


class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"value")

    def log_message(self, *_) -> None:
        pass


def serve(handler) -> str:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_address[1]}"


def examples(folder: pathlib.Path):
    """Each with its language, its flags and a message."""
    (folder / "data").mkdir()
    (folder / "data/poem.txt").write_text("one two\nthree\n")
    redis, api = serve(Redis), serve(Api)
    order = '{"id":"o-1","currency":"EUR","lines":[{"article":"nut","quantity":100,"price":7}]}'
    bill = '{"number":"7","customer":"Ada","lines":[{"text":"nut","quantity":3,"price":5}]}'
    return [
        ("words-rust", "Rust, preview 1", ["--dir", f"{folder}/data::/data"], "poem.txt"),
        ("lookup-rust", "Rust, 0.2", ["--env", f"REDIS={redis}", "--allow-net", redis], "key"),
        ("api-rust", "Rust, 0.3", ["--env", f"API_URL=http://{api}", "--allow-http", api], "item"),
        ("sum-c", "C", [], "1 10"),
        ("mandelbrot-cpp", "C++", [], "4/0/0"),
        ("orders-go", "Go", [], order),
        ("shrink-zig", "Zig", [], "P6 3 1 255\nabcdefghi"),
        ("invoice-js", "JavaScript, QuickJS", [], bill),
        ("report-python", "Python, CPython", [], "sensor,time,value\nroof,10:00,21.5\n"),
        ("geohash-assemblyscript", "AssemblyScript", [], "57.64911,10.40744\n"),
    ]


def bytes_as_text(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"


def seconds_as_text(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.1f} ms"


class Meter:
    def __init__(self, program: str, folder: pathlib.Path) -> None:
        self.program, self.folder = program, folder
        self.environment = QUEUE | {"BROKER_URL": f"sqlite:{folder}/queue.db", "PATH": os.environ["PATH"]}

    def run(self, *args: str, stdin: str = "") -> bytes:
        done = subprocess.run([self.program, *args], input=stdin.encode(), capture_output=True, env=self.environment)
        if done.returncode != 0:
            why = done.stderr.decode(errors="replace").strip()
            raise RuntimeError(why or f"`wq-run {args[0]}` ended with {done.returncode}")
        return done.stdout

    def timed(self, *args: str, stdin: str = "") -> float:
        begun = time.monotonic()
        self.run(*args, stdin=stdin)
        return time.monotonic() - begun

    def computed(self, *args: str) -> float:
        """How long the processor was busy, in all processes that this starts: what compiles uses all cores."""

        def used() -> float:
            usage = resource.getrusage(resource.RUSAGE_CHILDREN)
            return usage.ru_utime + usage.ru_stime

        before = used()
        self.run(*args)
        return used() - before

    def drained(self, count: int, message: str, *args: str) -> float:
        self.run("publish", *[message] * count)
        return self.timed("work", "--drain", "--result", "none", *args)

    def measure(self, name: str, flags: list[str], message: str) -> list[str]:
        guest = str(ROOT / f"build/guests/{name}.wasm")
        size = json.loads(self.run("inspect", "--json", guest))["size"]
        cached = ["--cache-dir", f"{self.folder}/cache-{name}"]
        compiling = self.computed("compile", guest, *cached)
        for again in range(2 if compiling < LONG else 0):
            compiling = min(compiling, self.computed("compile", guest, "--cache-dir", f"{self.folder}/again-{again}-{name}"))
        start = min(self.timed("exec", guest, *cached, *flags, stdin=message) for _ in range(STARTS))
        # Of both counts the least, so that neither a start nor an end is in their difference.
        few, many = (min(self.drained(count, message, guest, *cached, *flags) for _ in range(ROUNDS)) for count in (FEW, MANY))
        each = max(many - few, 0) / (MANY - FEW)
        return [bytes_as_text(size["wasm"]), bytes_as_text(size["zstd"]), *map(seconds_as_text, (compiling, start, each))]


def processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main() -> None:
    program = str(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/wq-run").resolve())
    if not os.access(program, os.X_OK):
        sys.exit(f"scripts/languages.py: there is no {program}: cargo build --release -p wq-run")
    rows, left_out = [], []
    # In memory, where there is such a folder: the disk's part would be larger than the guests'.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        meter = Meter(program, pathlib.Path(folder))
        meter.run("queue", "declare")
        version = meter.run("--version").decode().splitlines()[0]
        for name, language, flags, message in examples(meter.folder):
            print(name, file=sys.stderr)
            try:
                costs = meter.measure(name, flags, message)
            except RuntimeError as error:
                print(f"NOT MEASURED: {name}: {error}", file=sys.stderr)
                left_out.append(name)
                continue
            rows.append(f"| [{name}](../guest-examples/{name}/) | {language} | {' | '.join(costs)} |")
    where = f"Measured on {processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, with {version}. "
    where += f"The load of the machine was {os.getloadavg()[1]:.0f}."
    if left_out:
        where += f" Not measured: {', '.join(left_out)}."
    head = "| guest | language | size | zstd | compile (CPU) | start | message |\n| --- | --- | --- | --- | --- | --- | --- |"
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{head}\n" + "\n".join(rows) + f"\n\n{where}\n\n{END}{after}")


if __name__ == "__main__":
    main()
