/** Plays tapes for the program at the other end of a pipe, on a build of WebAssembly. elsewhere.py is that program.
 *
 *     node host.ts engine.wasm             the plain build
 *     node host.ts - engine-relaxed.wasm   the relaxed one, if the runtime has what it needs */
import { readFileSync, readSync, writeSync } from "node:fs";
import { Engine, hasRelaxedVectors, type Places, REGIONS, type Tape, TapeRefused } from "../../web/engine.ts";

const MEMORY = 1 << 28;
const [plain, relaxed] = process.argv.slice(2);
if (relaxed !== undefined && !hasRelaxedVectors()) throw new Error("this runtime has no relaxed vectors");
const modules = relaxed === undefined ? { plain: readFileSync(plain!) } : { plain: new Uint8Array(), relaxed: readFileSync(relaxed) };
const engine = await Engine.start(modules, MEMORY);

function fill(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; ) {
    const count = readSync(0, bytes, at, bytes.length - at, null);
    if (count === 0) return false;
    at += count;
  }
  return true;
}

function read(size: number): DataView {
  const bytes = new Uint8Array(size);
  if (!fill(bytes)) process.exit(0);
  return new DataView(bytes.buffer);
}

function write(bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(1, bytes, at);
}

/** Words of four and eight bytes. */
function words(...values: (number | bigint)[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(8 * values.length));
  let at = 0;
  for (const value of values)
    if (typeof value === "bigint") view.setBigUint64((at += 8) - 8, value, true);
    else view.setInt32((at += 4) - 4, value, true);
  return new Uint8Array(view.buffer, 0, at);
}

const tapes = new Map<number, Tape>();
let last = 0;

function about(): void {
  const name = new TextEncoder().encode(engine.relaxed ? "relaxed WebAssembly" : "WebAssembly");
  write(words(engine.exports.tacit_version(), name.length));
  write(name);
}

function open(): void {
  const head = read(20);
  const bytes = new Uint8Array(read(head.getUint32(16, true)).buffer);
  const limits = { mostOperations: head.getBigUint64(0, true), mostBytes: head.getBigUint64(8, true) };
  try {
    const tape = engine.open(bytes, limits);
    tapes.set(++last, tape);
    write(words(0, -1, last, 0, tape.kind, tape.records, tape.operations, tape.moved));
    write(words(...Array.from({ length: REGIONS }, (_, region) => BigInt(tape.regions.get(region) ?? 0))));
  } catch (error) {
    if (!(error instanceof TapeRefused)) throw error;
    const sentence = new TextEncoder().encode(error.sentence);
    write(words(error.rule, error.record ?? -1, 0, sentence.length));
    write(sentence);
  }
}

function close(): void {
  const handle = read(4).getUint32(0, true);
  tapes.get(handle)!.close();
  tapes.delete(handle);
}

function play(): void {
  const head = read(8 + 8 * REGIONS);
  const places: Places = new Map();
  for (let region = 0; region < REGIONS; region++) {
    const size = Number(head.getBigUint64(8 + 8 * region, true));
    if (size > 0) places.set(region, engine.allocate(size));
  }
  for (const block of places.values()) fill(engine.bytes(block));
  tapes.get(head.getUint32(0, true))!.play(places, head.getUint32(4, true) !== 0);
  write(words(0));
  for (const block of places.values()) write(engine.bytes(block));
  for (const block of places.values()) engine.free(block);
}

const commands = [about, open, close, play];
for (;;) commands[read(4).getUint32(0, true)]!();
