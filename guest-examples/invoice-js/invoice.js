// An order as JSON becomes an invoice as HTML. Nothing here knows that it runs in WebAssembly, so Node.js runs its tests.

/** The message itself is wrong: another try cannot help. */
export class BadMessage extends Error {}

/** @param {string} message JSON: `{"number": "…", "customer": "…", "lines": [{"text": "…", "quantity": 2, "price": 1999}]}` */
export function invoice(message) {
  const order = read(message);
  // Money is counted in the smallest unit, and never as a fraction.
  const total = order.lines.reduce((sum, line) => sum + line.quantity * line.price, 0);
  if (!Number.isSafeInteger(total)) throw new BadMessage("the total is larger than it can be");
  const rows = order.lines.map(
    (line) =>
      `<tr><td>${line.quantity}</td><td>${escaped(line.text)}</td><td>${money(line.quantity * line.price)}</td></tr>\n`,
  );
  return `<!doctype html>
<meta charset="utf-8">
<title>Invoice ${escaped(order.number)}</title>
<h1>Invoice ${escaped(order.number)}</h1>
<p>${escaped(order.customer)}</p>
<table>
${rows.join("")}<tr><td></td><td>Total</td><td>${money(total)}</td></tr>
</table>
`;
}

function read(message) {
  let order;
  try {
    order = JSON.parse(message);
  } catch (error) {
    throw new BadMessage(`not JSON: ${error.message}`);
  }
  if (typeof order !== "object" || order === null) throw new BadMessage("not an order");
  for (const name of ["number", "customer"]) {
    if (typeof order[name] !== "string" || order[name] === "") throw new BadMessage(`${name} has to be a text`);
  }
  if (!Array.isArray(order.lines) || order.lines.length === 0) throw new BadMessage("there are no lines");
  order.lines.forEach((line, index) => {
    const isCount = (value, least) => Number.isSafeInteger(value) && value >= least;
    const isLine = typeof line?.text === "string" && isCount(line.quantity, 1) && isCount(line.price, 0);
    if (!isLine) throw new BadMessage(`line ${index + 1} has to have a text, a quantity and a price`);
  });
  return order;
}

function money(cents) {
  return `${Math.floor(cents / 100)}.${String(cents % 100).padStart(2, "0")}`;
}

/** What strangers wrote must not become markup. */
function escaped(text) {
  const names = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return text.replace(/[&<>"']/g, (character) => names[character]);
}
