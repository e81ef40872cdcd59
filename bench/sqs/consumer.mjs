// A worker by npm's sqs-consumer, as its README has it: it writes a line for each message, and takes as long as it is told.
import { appendFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { SQSClient } from "@aws-sdk/client-sqs";
import { Consumer } from "sqs-consumer";

const [queueUrl, out, milliseconds] = process.argv.slice(2);
const consumer = Consumer.create({
  queueUrl,
  batchSize: 10,
  sqs: new SQSClient({}),
  handleMessage: async (message) => {
    if (Number(milliseconds) > 0) await sleep(Number(milliseconds));
    appendFileSync(out, `${message.Body}\n`);
    return message;
  },
});
consumer.on("error", (error) => console.error(error.message));
consumer.start();
