// Cluster clients that go to the nodes themselves: ioredis' Cluster and node-redis' createCluster.
import assert from "node:assert/strict";
import { Cluster } from "ioredis";
import { createCluster } from "redis";

const { hostname: host, port } = new URL(process.env.FRAMEWORKS_NODE);
const keys = Array.from({ length: 100 }, (_, number) => `key:${number}`);

const one = new Cluster([{ host, port: Number(port) }]);
await Promise.all(keys.map((key) => one.set(key, key)));
assert.deepEqual(await Promise.all(keys.map((key) => one.get(key))), keys);
assert.ok(one.nodes("master").length > 1, "keys are spread over nodes");
const pipeline = one.pipeline();
pipeline.set("{tag}a", 1).incr("{tag}a").get("{tag}a");
assert.deepEqual(await pipeline.exec(), [[null, "OK"], [null, 2], [null, "2"]]);
await assert.rejects(one.mget("key:1", "key:2"), /CROSSSLOT/);
one.disconnect();

const other = createCluster({ rootNodes: [{ url: process.env.FRAMEWORKS_NODE }] });
await other.connect();
assert.deepEqual(await Promise.all(keys.map((key) => other.get(key))), keys);
assert.deepEqual(await other.multi().set("{tag}b", "1").incr("{tag}b").exec(), ["OK", 2]);
await other.quit();
