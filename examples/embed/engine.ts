// The engine as WebAssembly: the calls of engine/tacit.h, on one memory that never grows.

import type { Field, Place, Plan } from "./plan.ts"

export const PLAYED = 0
export const PAUSED = 4

const REGIONS = 16
const FROZEN = 4
const PAGE = 65536

// Where the members of the structs in tacit.h stand in 32-bit WebAssembly.
const VISIT = {
  prefix: 0, train: 4, apply: 8, memory: 12, size: 76, places: 140, placeCount: 144, snapshot: 148, delta: 152,
  values: 156, examples: 160, fields: 164, rows: 168, fieldCount: 172, label: 176, labels: 200, weights: 208, order: 212,
  orderCount: 216, minibatches: 220, rates: 224, stepCount: 228, seed: 232, microbatch: 240, kept: 244, whole: 248,
  most: 252, after: 256, context: 260, bytes: 264,
}
const PROGRESS = { microbatches: 0, steps: 8, within: 24, loss: 36, bytes: 40 }
const ROW = 24 // of a table of places, or of fields

type Exports = {
  tacit_allocate(size: number): number
  tacit_open(bytes: number, length: number, limits: number, tape: number, refusal: number): number
  tacit_visit(visit: number, progress: number): number
  tacit_visit_region_size(visit: number, region: number): bigint
  tacit_result_sentence(result: number): number
  tacit_rule_sentence(rule: number): number
}
export type Numbers = Float32Array | Int32Array | Uint32Array | Uint8Array
export type Examples = { inputs: Numbers[]; labels: Numbers; weights: Float32Array }
export type Course = { order: Uint32Array; minibatches: Uint32Array; rates: Float32Array; seed: bigint }

export class Engine {
  memory: WebAssembly.Memory
  calls: Exports

  constructor(memory: WebAssembly.Memory, calls: Exports) {
    this.memory = memory
    this.calls = calls
  }

  // `bytes` is what a Plan and its examples need: memory is made once, and a little is added for the engine itself.
  static async load(wasm: BufferSource, bytes: number): Promise<Engine> {
    const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE) + 24 })
    const { instance } = await WebAssembly.instantiate(wasm, { env: { memory } })
    return new Engine(memory, instance.exports as unknown as Exports)
  }

  // Zeros that begin at a multiple of 64.
  room(bytes: number): number {
    const at = this.calls.tacit_allocate(Math.max(bytes, 1))
    if (at === 0) throw new Error(`the engine's memory has no room for ${bytes} bytes`)
    new Uint8Array(this.memory.buffer, at, bytes).fill(0)
    return at
  }

  put(numbers: Numbers): number {
    const at = this.room(numbers.byteLength)
    const bytes = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)
    new Uint8Array(this.memory.buffer).set(bytes, at)
    return at
  }

  sentence(at: number): string {
    const bytes = new Uint8Array(this.memory.buffer, at)
    return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)))
  }

  open(tape: Uint8Array | undefined): number {
    if (!tape) return 0
    const handle = this.room(4)
    const rule = this.calls.tacit_open(this.put(tape), tape.length, 0, handle, 0)
    if (rule !== 0) throw new Error(`a tape is refused: ${this.sentence(this.calls.tacit_rule_sentence(rule))}`)
    return new DataView(this.memory.buffer).getUint32(handle, true)
  }

  table(rows: number[][]): number {
    const at = this.room(rows.length * ROW)
    const view = new DataView(this.memory.buffer, at)
    rows.forEach((row, i) => writeRow(view, i * ROW, row))
    return at
  }

  // A visit from the Plan's own Snapshot 0, or another; nothing is played yet.
  visit(plan: Plan, examples: Examples, course: Course, snapshot?: Float32Array): Visit {
    const { program } = plan.manifest
    const trained = program.places.filter(place => place.place === "state")
    const blob = (name: string) => plan.blobs.get(name)
    const rows = [...examples.inputs, examples.labels].map(array => [this.put(array), array.byteLength])
    const words = {
      prefix: this.open(blob("tape/prefix")), train: this.open(blob("tape/train")), apply: this.open(blob("tape/apply")),
      places: this.table(trained.map(place => [place.offset, ...panelsOf(place)])), placeCount: trained.length,
      snapshot: this.put(snapshot ?? blob("initial")!), delta: this.room(4 * program.d), values: program.d,
      examples: examples.weights.length, fields: this.table(program.inputs.map(fieldOf)),
      rows: this.put(Uint32Array.from(rows.slice(0, -1).flat())), fieldCount: program.inputs.length,
      weights: this.put(examples.weights), order: this.put(course.order), orderCount: course.order.length,
      minibatches: this.put(course.minibatches), rates: this.put(course.rates), stepCount: course.minibatches.length,
      microbatch: program.microbatch, whole: Number(program.whole), most: 1,
    }
    const at = this.room(VISIT.bytes)
    const view = new DataView(this.memory.buffer)
    for (const [name, word] of Object.entries(words)) view.setUint32(at + VISIT[name as keyof typeof VISIT], word, true)
    writeRow(view, at + VISIT.label, fieldOf(program.label))
    rows.at(-1)!.forEach((word, i) => view.setUint32(at + VISIT.labels + 4 * i, word, true))
    view.setBigUint64(at + VISIT.seed, course.seed, true)
    for (let region = 0; region < REGIONS; region++) {
      const size = Number(this.calls.tacit_visit_region_size(at, region))
      if (size === 0) continue
      const frozen = blob("frozen")!
      view.setUint32(at + VISIT.memory + 4 * region, region === FROZEN ? this.put(frozen) : this.room(size), true)
      view.setUint32(at + VISIT.size + 4 * region, region === FROZEN ? frozen.length : size, true)
    }
    return new Visit(this, at, words.delta, program.d)
  }
}

export class Visit {
  engine: Engine
  at: number
  progress: number
  #delta: [number, number]

  constructor(engine: Engine, at: number, delta: number, values: number) {
    this.engine = engine
    this.at = at
    this.progress = engine.room(PROGRESS.bytes)
    this.#delta = [delta, values]
  }

  // One micro-batch. False: the visit is over. To cancel it, do not call again.
  play(): boolean {
    const result = this.engine.calls.tacit_visit(this.at, this.progress)
    if (result !== PLAYED && result !== PAUSED)
      throw new Error(`no delta: ${this.engine.sentence(this.engine.calls.tacit_result_sentence(result))}`)
    return result === PAUSED
  }

  get where(): { microbatches: number; steps: number; within: number; loss: number } {
    const view = new DataView(this.engine.memory.buffer, this.progress)
    const count = (name: "microbatches" | "steps" | "within") => Number(view.getBigUint64(PROGRESS[name], true))
    const loss = view.getFloat32(PROGRESS.loss, true)
    return { microbatches: count("microbatches"), steps: count("steps"), within: count("within"), loss }
  }

  get delta(): Float32Array {
    return new Float32Array(this.engine.memory.buffer, ...this.#delta).slice()
  }
}

// A row of a table: a place's or a field's bytes, then words; a field's second number has eight bytes as well.
function writeRow(view: DataView, at: number, [offset, ...words]: number[]): void {
  view.setBigUint64(at, BigInt(offset), true)
  words.forEach((word, i) => view.setUint32(at + 8 + 4 * i, word, true))
}

const product = (sides: number[]) => sides.reduce((a, b) => a * b, 1)

// `panels_of` of src/tacit/plan/layout.py: groups, outputs, channels, pixels.
function panelsOf({ shape, form, image, groups }: Place): number[] {
  if (form === "vector") return [1, product(shape), 1, 1]
  if (form === "rows") return [shape[0], shape[1], 1, 1]
  const depthwise = groups > 1 && groups === shape[0] && shape[1] === 1
  const inner = product(shape.slice(1))
  const channels = form === "conv" ? shape[1] : image ? image[0] : inner
  return depthwise ? [1, shape[0], channels, inner / channels] : [groups, shape[0] / groups, channels, inner / channels]
}

function fieldOf({ offset, shape, channels_last }: Field): number[] {
  return [offset, 4 * product(shape), 0, channels_last ? shape[0] : 1, 0]
}
