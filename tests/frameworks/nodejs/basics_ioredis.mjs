// ioredis: commands, pipelines, transactions, scripts as commands, subscriptions, streams, blocking.
import assert from "node:assert/strict";
import { Redis } from "ioredis";

const redis = new Redis(process.env.FRAMEWORKS_URL);
assert.equal(await redis.set("k", "v"), "OK");
assert.equal(await redis.get("k"), "v");
await redis.hset("h", { a: 1, b: "zwei" });
assert.deepEqual(await redis.hgetall("h"), { a: "1", b: "zwei" });
await redis.zadd("z", 2, "b", 1, "a");
assert.deepEqual(await redis.zrange("z", 0, -1, "WITHSCORES"), ["a", "1", "b", "2"]);
assert.deepEqual(await redis.getBuffer("k"), Buffer.from("v"));

const piped = await redis.pipeline().incr("n").incr("n").get("k").lpush("k", "x").exec();
assert.deepEqual(piped.slice(0, 3), [[null, 1], [null, 2], [null, "v"]]);
assert.match(piped[3][0].message, /^WRONGTYPE/);

assert.deepEqual(await redis.multi().set("m", 1).incr("m").exec(), [[null, "OK"], [null, 2]]);

redis.defineCommand("addAll", {
  numberOfKeys: 1,
  lua: "local n = 0 for _, v in ipairs(ARGV) do n = n + redis.call('SADD', KEYS[1], v) end return n",
});
assert.equal(await redis.addAll("s", "a", "b", "a"), 2);
await redis.script("FLUSH");
assert.equal(await redis.addAll("s", "c"), 1); // NOSCRIPT: it sends the text again.
await assert.rejects(redis.eval("return redis.call('NOSUCH')", 0), /Unknown Redis command called from script/);

const listener = redis.duplicate();
const heard = new Promise((resolve) => listener.on("message", (...message) => resolve(message)));
await listener.subscribe("news");
assert.equal(await redis.publish("news", "hello"), 1);
assert.deepEqual(await heard, ["news", "hello"]);
listener.disconnect();

const waiting = redis.duplicate();
const popped = waiting.blpop("queue", 10);
await redis.rpush("queue", "job");
assert.deepEqual(await popped, ["queue", "job"]);
waiting.disconnect();

const id = await redis.xadd("stream", "*", "field", "value");
assert.deepEqual(await redis.xread("COUNT", 1, "STREAMS", "stream", "0"), [["stream", [[id, ["field", "value"]]]]]);

let seen = 0;
for await (const keys of redis.scanStream({ match: "*", count: 2 })) seen += keys.length;
assert.equal(seen, await redis.dbsize());
redis.disconnect();
