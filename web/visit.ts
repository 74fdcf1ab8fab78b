/**
 * Trains a Plan on examples: `tacit_visit` of engine/tacit.h, a micro-batch a call.
 *
 *     const plan = await readPlan(file);
 *     const engine = await Engine.start(modules, visitBytes(plan, examples));
 *     const visit = new Visit(engine, plan, examples, course);
 *     while (visit.play()) show(visit.loss);   // await something here to keep a page alive; do not call again to cancel
 *     const delta = visit.delta;               // private: it does not leave the device as it is
 */

import { type Block, bytesNeeded, type Engine, Region, REGIONS } from "./engine.ts";
import type { Field, Place, Plan } from "./plan.ts";

export type Values = Float32Array | Int32Array | Uint32Array | Uint8Array;

/** Rows of each input as PyTorch has them, in the Plan's order; a label and a weight each. */
export type Examples = { readonly inputs: readonly Values[]; readonly labels: Values; readonly weights: Float32Array };

/** Which examples a visit takes, how many to a step and at which rate, and what its masks are drawn from. */
export type Course = {
  readonly order: Uint32Array;
  readonly minibatches: Uint32Array;
  readonly rates: Float32Array;
  readonly seed: bigint;
};

type Exports = {
  tacit_visit(visit: number, progress: number): number;
  tacit_visit_region_size(visit: number, region: number): bigint;
  tacit_result_sentence(result: number): number;
};

const PLAYED = 0;
const PAUSED = 4;
const ROW = 24; // bytes of a struct tacit_place, or tacit_field
const ROUNDING = 128; // what the heap may add to a block

/** Where the members of `struct tacit_visit` stand in 32-bit WebAssembly. */
const VISIT = {
  prefix: 0,
  train: 4,
  apply: 8,
  memory: 12,
  size: 76,
  places: 140,
  placeCount: 144,
  snapshot: 148,
  delta: 152,
  values: 156,
  examples: 160,
  fields: 164,
  rows: 168,
  fieldCount: 172,
  label: 176,
  labels: 200,
  weights: 208,
  order: 212,
  orderCount: 216,
  minibatches: 220,
  rates: 224,
  stepCount: 228,
  seed: 232,
  microbatch: 240,
  whole: 248,
  most: 252,
  bytes: 264,
};
const PROGRESS = { microbatches: 0, steps: 8, within: 24, loss: 36, bytes: 40 };

/** The memory that a visit needs: what `Engine.start` is to be given. */
export function visitBytes(plan: Plan, examples: Examples, course: Course): number {
  const { program } = plan.manifest;
  const tapes = ["tape/prefix", "tape/train", "tape/apply"].flatMap((name) => plan.blobs.get(name) ?? []);
  const arrays = [...examples.inputs, examples.labels, examples.weights, course.order, course.minibatches, course.rates];
  let total = bytesNeeded(tapes) + plan.blobs.get("frozen")!.length + 2 * 4 * program.d + 2 * VISIT.bytes;
  for (const array of arrays) total += array.byteLength + ROUNDING;
  for (const field of [...program.inputs, program.label]) total += program.microbatch * rowBytes(field) + ROUNDING;
  return total + ROW * (program.places.length + program.inputs.length) + 16 * ROUNDING + 4 * program.microbatch;
}

export class Visit {
  readonly #engine: Engine;
  readonly #exports: Exports;
  readonly #at: Block;
  readonly #progress: Block;
  readonly #delta: Block;
  #over = false;

  /** From the Plan's Snapshot 0, or another. Nothing is played yet. */
  constructor(engine: Engine, plan: Plan, examples: Examples, course: Course, snapshot?: Float32Array) {
    const { program } = plan.manifest;
    this.#engine = engine;
    this.#exports = engine.exports as unknown as Exports;
    this.#at = this.#zeros(VISIT.bytes);
    this.#progress = this.#zeros(PROGRESS.bytes);
    this.#delta = this.#zeros(4 * program.d);
    const open = (name: string) => (plan.blobs.has(name) ? engine.open(plan.blobs.get(name)!).handle : 0);
    const trained = program.places.filter((place) => place.place === "state");
    const rows = examples.inputs.flatMap((input) => [this.#put(input), input.byteLength]);
    this.#words(VISIT.prefix, open("tape/prefix"), open("tape/train"), open("tape/apply"));
    this.#words(VISIT.places, this.#table(trained.map(placeRow)), trained.length);
    this.#words(VISIT.snapshot, this.#put(snapshot ?? plan.blobs.get("initial")!), this.#delta.at, program.d);
    this.#words(VISIT.examples, examples.weights.length, this.#table(program.inputs.map(fieldRow)));
    this.#words(VISIT.rows, this.#put(new Uint32Array(rows)), program.inputs.length);
    this.#row(this.#at.at + VISIT.label, fieldRow(program.label));
    this.#words(VISIT.labels, this.#put(examples.labels), examples.labels.byteLength, this.#put(examples.weights));
    this.#words(VISIT.order, this.#put(course.order), course.order.length, this.#put(course.minibatches));
    this.#words(VISIT.rates, this.#put(course.rates), course.minibatches.length);
    this.#view().setBigUint64(this.#at.at + VISIT.seed, BigInt.asUintN(64, course.seed), true);
    this.#words(VISIT.microbatch, program.microbatch, 0, program.whole ? 1 : 0, 1);
    for (let region = 0; region < REGIONS; region++) {
      const size = Number(this.#exports.tacit_visit_region_size(this.#at.at, region));
      const frozen = region === Region.FROZEN ? plan.blobs.get("frozen")! : undefined;
      if (size === 0) continue;
      this.#words(VISIT.memory + 4 * region, frozen ? this.#put(frozen) : this.#zeros(size).at);
      this.#words(VISIT.size + 4 * region, frozen ? frozen.length : size);
    }
  }

  /** One micro-batch. False: the visit is over, and this was its last. */
  play(): boolean {
    const result = this.#exports.tacit_visit(this.#at.at, this.#progress.at);
    this.#over = result === PLAYED;
    if (result !== PLAYED && result !== PAUSED)
      throw new Error(`there is no delta: ${this.#text(this.#exports.tacit_result_sentence(result))}`);
    return result === PAUSED;
  }

  /** Micro-batches played so far. */
  get microbatches(): number {
    return this.#count(PROGRESS.microbatches);
  }

  /** Steps of the optimizer so far. */
  get steps(): number {
    return this.#count(PROGRESS.steps);
  }

  /** Whether a step has just ended. */
  get atStep(): boolean {
    return this.#count(PROGRESS.within) === 0;
  }

  /** The loss of the minibatch so far; right after a step, of the one that led to it. */
  get loss(): number {
    return this.#view().getFloat32(this.#progress.at + PROGRESS.loss, true);
  }

  /** What the whole visit changed, in the Plan's order. */
  get delta(): Float32Array {
    if (!this.#over) throw new Error("there is no delta before a visit is over");
    return this.#engine.floats(this.#delta).slice();
  }

  #view(): DataView {
    return new DataView(this.#engine.memory.buffer);
  }

  #count(at: number): number {
    return Number(this.#view().getBigUint64(this.#progress.at + at, true));
  }

  #zeros(size: number): Block {
    const block = this.#engine.allocate(size);
    this.#engine.bytes(block).fill(0);
    return block;
  }

  #put(values: Values): number {
    const block = this.#engine.allocate(values.byteLength);
    this.#engine.bytes(block).set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    return block.at;
  }

  #words(member: number, ...words: number[]): void {
    words.forEach((word, i) => this.#view().setUint32(this.#at.at + member + 4 * i, word, true));
  }

  /** A place's or a field's first eight bytes, then words. */
  #row(at: number, [offset, ...words]: readonly number[]): void {
    this.#view().setBigUint64(at, BigInt(offset!), true);
    words.forEach((word, i) => this.#view().setUint32(at + 8 + 4 * i, word, true));
  }

  #table(rows: readonly (readonly number[])[]): number {
    const block = this.#zeros(ROW * rows.length);
    rows.forEach((row, i) => this.#row(block.at + ROW * i, row));
    return block.at;
  }

  #text(at: number): string {
    const bytes = new Uint8Array(this.#engine.memory.buffer, at);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }
}

function product(sides: readonly number[]): number {
  return sides.reduce((a, b) => a * b, 1);
}

/** Bytes of one example. */
function rowBytes(field: Field): number {
  return 4 * product(field.shape);
}

/** `struct tacit_field`; its second member has eight bytes. */
function fieldRow(field: Field): number[] {
  return [field.offset, rowBytes(field), 0, field.channels_last ? field.shape[0]! : 1, 0];
}

/** `struct tacit_place`: offset, groups, outputs, channels, pixels. `panels_of` in src/tacit/plan/layout.py is the same. */
function placeRow({ offset, shape, form, image, groups }: Place): number[] {
  if (form === "vector") return [offset, 1, product(shape), 1, 1];
  const [outputs, second] = [shape[0]!, shape[1]!];
  if (form === "rows") return [offset, outputs, second, 1, 1];
  const depthwise = groups > 1 && groups === outputs && second === 1;
  const inner = product(shape.slice(1));
  const channels = form === "conv" ? second : (image?.[0] ?? inner);
  const apart = depthwise ? 1 : groups;
  return [offset, apart, outputs / apart, channels, inner / channels];
}
