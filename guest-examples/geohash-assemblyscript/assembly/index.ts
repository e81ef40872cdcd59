// The guest: places on stdin, a line each, and their geohashes on stdout.

import { fd_write } from "@assemblyscript/wasi-shim/assembly/bindings/wasi_snapshot_preview1";

import { geohashOf } from "./geohash";

/** EX_DATAERR of sysexits.h: the message itself is bad, and wq-run makes it a dead letter. */
const BAD_MESSAGE = 65;
/** EX_TEMPFAIL: wq-run tries the message again. */
const TRY_AGAIN = 75;

/** All of stdin, as text. */
function read(): string {
  let all = new Uint8Array(4096);
  let length = 0;
  let count = 0;
  do {
    length += count;
    if (length == all.length) {
      const larger = new Uint8Array(2 * length);
      larger.set(all);
      all = larger;
    }
    count = process.stdin.read(all.buffer, length);
  } while (count > 0);
  return String.UTF8.decode(all.buffer.slice(0, length));
}

/** Not `process.stdout.write`, which does not look at how much was written: a host of WASI may take less than all. */
function write(text: string): void {
  const bytes = String.UTF8.encode(text);
  const vector = memory.data(16);
  const length = <usize>bytes.byteLength;
  let at: usize = 0;
  while (at < length) {
    store<usize>(vector, changetype<usize>(bytes) + at);
    store<usize>(vector, length - at, sizeof<usize>());
    if (fd_write(1, vector, 1, vector + 8) != 0) process.exit(TRY_AGAIN);
    at += load<usize>(vector, 8);
  }
}

/** Ends the guest. Not by `throw`, which nothing catches in AssemblyScript: it exits with 255, which wq-run calls a trap. */
function fail(why: string): void {
  // Not `console.error`, which writes to stdout.
  process.stderr.write("geohash-assemblyscript: " + why + "\n");
  process.exit(BAD_MESSAGE);
}

const lines = read().split("\n");
const result = new Array<string>();
for (let i = 0; i < lines.length; i++) {
  const line = lines[i].trim();
  if (line.length == 0) continue;
  const hash = geohashOf(line);
  if (hash == null) {
    fail("line " + (i + 1).toString() + " is not LATITUDE,LONGITUDE");
  }
  result.push(hash!);
}
if (result.length == 0) {
  fail("there are no places");
}
write(result.join("\n") + "\n");
