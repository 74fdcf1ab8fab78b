/** Plays one tape in WebAssembly and says what it took; web.py is at the other end of the pipe. Little-endian:
 *
 *     at first:          size I, tape, 16 sizes Q, the bytes of every region of that size
 *     play so often: I   -> seconds d, of the processor's work
 *     the gradient:  0   -> the bytes of that region
 *
 *     node web.ts plain engine.wasm
 *     node web.ts relaxed engine-relaxed.wasm */
import { readFileSync, readSync, writeSync } from "node:fs";
import { bytesNeeded, Engine, hasRelaxedVectors, type Places, Region, REGIONS } from "../web/engine.ts";

function fill(bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) {
    const count = readSync(0, bytes, at, bytes.length - at, null);
    if (count === 0) process.exit(0);
    at += count;
  }
}

function read(size: number): DataView {
  const bytes = new Uint8Array(size);
  fill(bytes);
  return new DataView(bytes.buffer);
}

function write(bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(1, bytes, at);
}

function worked(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

const [kind, file] = process.argv.slice(2);
if (kind === "relaxed" && !hasRelaxedVectors()) throw new Error("this node has no relaxed vectors");
const module = readFileSync(file!);
const bytes = new Uint8Array(read(read(4).getUint32(0, true)).buffer);
const modules = kind === "relaxed" ? { plain: new Uint8Array(), relaxed: module } : { plain: module };
const sizes = read(8 * REGIONS);
const engine = await Engine.start(modules, bytesNeeded([bytes]));
const tape = engine.open(bytes);
const places: Places = new Map();
for (let region = 0; region < REGIONS; region++) {
  const size = Number(sizes.getBigUint64(8 * region, true));
  if (size > 0) places.set(region, engine.allocate(size));
}
for (const block of places.values()) fill(engine.bytes(block));

const answer = new DataView(new ArrayBuffer(8));
for (;;) {
  const times = read(4).getUint32(0, true);
  if (times === 0) {
    write(engine.bytes(places.get(Region.GRADIENT)!));
    continue;
  }
  const start = worked();
  for (let i = 0; i < times; i++) tape.play(places, true);
  answer.setFloat64(0, worked() - start, true);
  write(new Uint8Array(answer.buffer));
}
