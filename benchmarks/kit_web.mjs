// Times a kit's networks in onnxruntime-web (wasm) under node and writes times.csv.
//
//   npm install onnxruntime-web && node kit_web.mjs KIT [ROUNDS]
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import * as ort from "onnxruntime-web";

const [kit, rounds = "15"] = process.argv.slice(2);
const GROUP = 30, CALLS = 3, WARM_UP = 3;
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";
const manifest = JSON.parse(fs.readFileSync(path.join(kit, "manifest.json"), "utf8"));
const [dense, ...cut] = manifest.networks.map((network) => network.name);
const dims = [manifest.batch_size, ...manifest.input_size];
const values = Float32Array.from({ length: dims.reduce((a, b) => a * b) }, () => Math.random());
const feeds = { input: new ort.Tensor("float32", values, dims) };
const quantile = (sorted, q) => {
  const at = (sorted.length - 1) * q, low = Math.floor(at), high = Math.ceil(at);
  return sorted[low] + (at - low) * (sorted[high] - sorted[low]);
};
const median = (list) => quantile([...list].sort((a, b) => a - b), 0.5);

const groups = [];
for (let i = 0; i < cut.length; i += GROUP) groups.push(cut.slice(i, i + GROUP));
const readings = {}, single = {}, first = {};
for (const [i, names] of groups.entries()) {
  console.log(`group ${i + 1} of ${groups.length}: the dense network and ${names.length}`);
  const sessions = {};
  for (const name of [dense, ...names]) {
    const file = fs.readFileSync(path.join(kit, `${name}.onnx`));
    sessions[name] = await ort.InferenceSession.create(new Uint8Array(file), {
      executionProviders: ["wasm"],
    });
    const start = performance.now();
    await sessions[name].run(feeds);
    first[name] ??= (performance.now() - start) / 1e3;
    for (let j = 0; j < WARM_UP; j++) await sessions[name].run(feeds);
  }
  const times = Object.fromEntries(Object.keys(sessions).map((name) => [name, []]));
  for (let round = 0; round < Number(rounds); round++) {
    const order = Object.keys(sessions).map((name) => [Math.random(), name]).sort();
    for (const [, name] of order) {
      await sessions[name].run(feeds);
      let fastest = Infinity;
      for (let j = 0; j < CALLS; j++) {
        const start = performance.now();
        await sessions[name].run(feeds);
        const seconds = (performance.now() - start) / 1e3;
        (single[name] ??= []).push(seconds);
        fastest = Math.min(fastest, seconds);
      }
      times[name].push(fastest);
    }
  }
  for (const name of Object.keys(sessions)) {
    (readings[name] ??= []).push(times[name]);
    await sessions[name].release();
  }
}
const medians = readings[dense].map(median);
const slow = medians.map((m) => m / median(medians));
const lines = [
  `# kit: ${manifest.id}`,
  `# runtime: onnxruntime-web ${ort.env.versions.web}`,
  "# provider: wasm",
  "# threads: 1",
  `# device: ${os.cpus()[0].model.trim()}`,
  `# cores: ${os.cpus().length}`,
  `# system: node ${process.version} ${os.platform()} ${os.arch()}`,
  `# drift: ${(Math.max(...slow) / Math.min(...slow) - 1).toFixed(3)}`,
  "network,seconds,q25_s,q75_s,n,p90_s,p99_s,first_call_s",
];
const row = (name, list) => {
  const sorted = [...list].sort((a, b) => a - b);
  const [low, high] = [quantile(sorted, 0.25), quantile(sorted, 0.75)];
  const calls = single[name].sort((a, b) => a - b);
  const tail = [[0.9, 10], [0.99, 100]].map(([q, least]) =>
    calls.length < least ? "" : quantile(calls, q).toPrecision(9));
  const numbers = [low, low, high].map((x) => x.toPrecision(9));
  return [name, ...numbers, sorted.length, ...tail, first[name].toPrecision(9)].join();
};
lines.push(row(dense, readings[dense].flatMap((list, i) => list.map((t) => t / slow[i]))));
for (const [i, names] of groups.entries())
  for (const name of names) lines.push(row(name, readings[name][0].map((t) => t / slow[i])));
const output = path.join(kit, "times.csv");
fs.writeFileSync(`${output}.tmp`, lines.join("\n") + "\n");
fs.renameSync(`${output}.tmp`, output);
console.log(`${output}: ${cut.length + 1} networks`);
