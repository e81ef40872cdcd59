// The component: a message on stdin, a result on stdout, and an exit code. The names of the imports are those of WASI, in camel case.

import { getStderr } from "wasi:cli/stderr@0.2.12";
import { exitWithCode } from "wasi:cli/exit@0.2.12";
import { getStdin } from "wasi:cli/stdin@0.2.12";
import { getStdout } from "wasi:cli/stdout@0.2.12";

import { BadMessage, invoice } from "./invoice.js";

/** EX_DATAERR of sysexits.h: the message itself is bad, and wq-run makes it a dead letter. */
const BAD_MESSAGE = 65;
/** EX_TEMPFAIL: wq-run tries the message again. */
const TRY_AGAIN = 75;

export const run = {
  run() {
    let code = 0;
    // Nothing may leave this function as an exception: that would be a trap, whose frames are those of the interpreter.
    try {
      write(getStdout(), invoice(read()));
    } catch (error) {
      write(getStderr(), `invoice-js: ${error.message}\n`);
      code = error instanceof BadMessage ? BAD_MESSAGE : TRY_AGAIN;
    }
    // `exitWithCode` does not return, and inside of the `try` its end would be caught.
    if (code !== 0) exitWithCode(code);
  },
};

/** All of stdin, as text. */
function read() {
  const stdin = getStdin();
  const parts = [];
  for (;;) {
    try {
      parts.push(String.fromCharCode(...stdin.blockingRead(4096)));
    } catch (error) {
      if (isClosed(error)) break;
      throw error;
    }
  }
  try {
    // There is no TextDecoder. A character for each byte, written as %XX, is UTF-8 again.
    return decodeURIComponent(escape(parts.join("")));
  } catch {
    throw new BadMessage("not UTF-8");
  }
}

/** The end of a stream is an error of WASI's, `stream-error.closed`. */
function isClosed(error) {
  return (error.payload ?? error).tag === "closed";
}

function write(stream, text) {
  const bytes = Uint8Array.from(unescape(encodeURIComponent(text)), (character) => character.charCodeAt(0));
  // This function of WASI takes at most 4096 bytes.
  for (let at = 0; at < bytes.length; at += 4096) {
    stream.blockingWriteAndFlush(bytes.subarray(at, at + 4096));
  }
}
