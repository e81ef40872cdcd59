// npm run build && npm test: runs the guest in the WASI of Node.js.

import assert from "node:assert/strict";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { WASI } from "node:wasi";

const guest = process.env.GUEST ?? new URL("geohash-assemblyscript.wasm", import.meta.url);
const module = new WebAssembly.Module(readFileSync(guest));

/** Runs the guest with a message. */
function run(message) {
  const folder = mkdtempSync(join(tmpdir(), "geohash-"));
  const at = (name) => join(folder, name);
  writeFileSync(at("in"), message);
  const [stdin, stdout, stderr] = [openSync(at("in")), openSync(at("out"), "w"), openSync(at("err"), "w")];
  try {
    const wasi = new WASI({ version: "preview1", stdin, stdout, stderr, returnOnExit: true });
    const code = wasi.start(new WebAssembly.Instance(module, wasi.getImportObject()));
    return { code, out: readFileSync(at("out"), "utf8"), err: readFileSync(at("err"), "utf8") };
  } finally {
    [stdin, stdout, stderr].forEach((file) => closeSync(file));
    rmSync(folder, { recursive: true });
  }
}

test("a place becomes its geohash", () => {
  assert.deepEqual(run("57.64911,10.40744\n0,0\n-90, 180\n"), { code: 0, out: "u4pruydqq\ns00000000\npbpbpbpbp\n", err: "" });
});

test("a long message has a long result", () => {
  assert.equal(run("57.64911,10.40744\n".repeat(50_000)).out, "u4pruydqq\n".repeat(50_000));
});

test("what is no place is a bad message", () => {
  for (const message of ["", "\n", "91,0", "0,181", "1", "1,2,3", "1,2x", "1..2,3", "1,", "1e1,2", "nan,0", "\xff"]) {
    const { code, out, err } = run(message);
    assert.deepEqual([code, out], [65, ""], message);
    assert.match(err, /LATITUDE,LONGITUDE|no places/);
  }
});
