// node-redis: the same in its own way, in RESP2 and RESP3.
import assert from "node:assert/strict";
import { createClient } from "redis";

for (const RESP of [2, 3]) {
  const client = await createClient({ url: process.env.FRAMEWORKS_URL, RESP }).connect();
  await client.flushDb();
  assert.equal(await client.set("k", "v", { EX: 100 }), "OK");
  assert.equal(await client.get("k"), "v");
  assert.ok((await client.ttl("k")) > 0);
  await client.hSet("h", { a: "1", b: "2" });
  assert.deepEqual({ ...(await client.hGetAll("h")) }, { a: "1", b: "2" });
  await client.zAdd("z", [{ score: 1.5, value: "a" }]);
  assert.equal(await client.zScore("z", "a"), 1.5);
  assert.deepEqual(await client.multi().incr("n").incr("n").exec(), [1, 2]);
  assert.equal(await client.eval("return redis.call('GET', KEYS[1])", { keys: ["k"] }), "v");
  await client.functionLoad("#!lua name=lib\nredis.register_function('plus', function(k, a) return a[1] + a[2] end)", {
    REPLACE: true,
  });
  assert.equal(await client.fCall("plus", { keys: [], arguments: ["1", "2"] }), 3);

  const listener = await client.duplicate().connect();
  let tell;
  const heard = new Promise((resolve) => (tell = resolve));
  await listener.subscribe("news", tell);
  await client.publish("news", "hello");
  assert.equal(await heard, "hello");
  await listener.close();

  let seen = 0;
  for await (const keys of client.scanIterator()) seen += [keys].flat().length;
  assert.equal(seen, await client.dbSize());
  await client.close();
}
