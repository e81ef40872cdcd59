// node --test

import assert from "node:assert/strict";
import test from "node:test";

import { BadMessage, invoice } from "./invoice.js";

const order = (change) => JSON.stringify({ number: "7", customer: "Ada", lines: [{ text: "nut", quantity: 3, price: 5 }], ...change });

test("an order becomes an invoice", () => {
  const html = invoice(order());
  assert.match(html, /<title>Invoice 7<\/title>/);
  assert.match(html, /<tr><td>3<\/td><td>nut<\/td><td>0\.15<\/td><\/tr>/);
  assert.match(html, /Total<\/td><td>0\.15</);
});

test("what strangers wrote is no markup", () => {
  const html = invoice(order({ customer: "<script>alert('x')</script> & Söhne" }));
  assert.ok(html.includes("<p>&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; Söhne</p>"), html);
});

test("a bad order is a bad message", () => {
  const line = (change) => order({ lines: [{ text: "nut", quantity: 1, price: 1, ...change }] });
  for (const message of [
    "",
    "null",
    "[]",
    "{",
    order({ number: 7 }),
    order({ customer: "" }),
    order({ lines: [] }),
    order({ lines: [null] }),
    line({ text: undefined }),
    line({ quantity: 0 }),
    line({ price: 0.5 }),
    line({ price: "1" }),
    line({ quantity: 2, price: Number.MAX_SAFE_INTEGER }),
  ]) {
    assert.throws(() => invoice(message), BadMessage, message);
  }
});
