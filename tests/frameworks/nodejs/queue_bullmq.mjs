// BullMQ, whose every step is a script: jobs, results, failures with retries, delays, priorities, repetition, flows, events.
import assert from "node:assert/strict";
import { FlowProducer, Queue, QueueEvents, Worker } from "bullmq";

const { hostname: host, port, password } = new URL(process.env.FRAMEWORKS_URL);
const connection = { host, port: Number(port), password: password || undefined, maxRetriesPerRequest: null };
const queue = new Queue("work", { connection });
const events = new QueueEvents("work", { connection });
await events.waitUntilReady();

const order = [];
const tries = new Map();
const start = () =>
  new Worker(
    "work",
    async (job) => {
      order.push(job.name);
      await job.updateProgress(50);
      tries.set(job.name, (tries.get(job.name) ?? 0) + 1);
      if (job.name === "shaky" && tries.get("shaky") < 3) throw new Error("not yet");
      if (job.name === "hopeless") throw new Error("never");
      return (job.data.number ?? 0) * 2;
    },
    { connection, concurrency: 1 },
  );

// Priorities: all are there before the worker is.
for (const [name, priority] of [["low", 10], ["high", 1], ["middle", 5]]) await queue.add(name, {}, { priority });
assert.deepEqual(await queue.getJobCounts("prioritized"), { prioritized: 3 });
const job = await queue.add("double", { number: 21 });
let worker = start();
await worker.waitUntilReady();
assert.equal(await job.waitUntilFinished(events, 60_000), 42);

const finished = async (name, data, options) =>
  (await queue.add(name, data, options)).waitUntilFinished(events, 60_000);

assert.equal(await finished("shaky", { number: 1 }, { attempts: 3, backoff: { type: "fixed", delay: 20 } }), 2);
await assert.rejects(finished("hopeless", {}, { attempts: 1 }), /never/);

const before = Date.now();
assert.equal(await finished("later", { number: 3 }, { delay: 500 }), 6);
assert.ok(Date.now() - before >= 490, "a delayed job came too early");

await finished("last", {});
const ranked = order.filter((name) => ["low", "middle", "high"].includes(name));
assert.deepEqual(ranked, ["high", "middle", "low"]);

await queue.upsertJobScheduler("tick", { every: 200 }, { name: "tick" });
const until = Date.now() + 60_000;
while ((tries.get("tick") ?? 0) < 3) {
  assert.ok(Date.now() < until, "a repeated job does not repeat");
  await new Promise((resolve) => setTimeout(resolve, 50));
}
await queue.removeJobScheduler("tick");

const flows = new FlowProducer({ connection });
const tree = await flows.add({
  name: "parent",
  queueName: "work",
  data: { number: 1 },
  children: [1, 2].map((number) => ({ name: `child${number}`, queueName: "work", data: { number } })),
});
await tree.job.waitUntilFinished(events, 60_000);
assert.deepEqual(Object.values(await tree.job.getChildrenValues()).sort(), [2, 4]);

assert.equal((await queue.getJobCounts("failed")).failed, 1);
await worker.close();
await queue.pause();
await queue.add("waits", {});
assert.equal(await queue.getJobCountByTypes("paused", "waiting"), 1);
await queue.obliterate({ force: true });
await Promise.all([queue.close(), events.close(), flows.close()]);
