/**
 * Plays tapes in a browser, or wherever WebAssembly runs: engine.wasm behind a few calls.
 *
 *     const modules = { plain: await bytesOf("engine.wasm"), relaxed: await bytesOf("engine-relaxed.wasm") };
 *     const engine = await Engine.start(modules, bytesNeeded([tape]));
 *     const opened = engine.open(tape);                    // verified and copied; throws TapeRefused
 *     const places = engine.place(opened.regions);         // zeroed memory for every region
 *     engine.floats(places.get(Region.X)!).set(examples);
 *     opened.play(places, true);
 *
 * Only types are added to JavaScript here: a runtime or bundler that strips them runs this file as it is.
 * The engine's memory is made once and never grows, so a view of it stays good for as long as the engine.
 */

export const REGIONS = 16;

/** The blocks of memory that a tape works on; engine/tacit.h says what each holds. */
export const Region = {
  ARENA: 0,
  STATE: 1,
  GRADIENT: 2,
  MOMENT: 3,
  FROZEN: 4,
  KEPT: 5,
  X: 6,
  Y: 7,
  WEIGHT: 8,
  DIVISOR: 9,
  LOSS: 10,
  OUTPUT: 11,
  RATE: 12,
  SEED: 13,
  START: 14,
} as const;

/** Where a block of the engine's memory begins, and how many bytes it has. */
export type Block = { readonly at: number; readonly size: number };
export type Places = Map<number, Block>;

/** The two builds of the engine; `relaxed` rounds a multiply-add once where the runtime can. */
export type Modules = { readonly plain: BufferSource; readonly relaxed?: BufferSource };

/** What the caller is willing to spend on one play. */
export type Limits = { readonly mostOperations: bigint; readonly mostBytes: bigint };

/** What engine.wasm exports; an address is a number. */
export type Exports = {
  tacit_allocate(size: number): number;
  tacit_free(at: number): void;
  tacit_open(bytes: number, length: number, limits: number, tape: number, refusal: number): number;
  tacit_close(tape: number): void;
  tacit_kind(tape: number): number;
  tacit_record_count(tape: number): number;
  tacit_operations(tape: number): bigint;
  tacit_moved(tape: number): bigint;
  tacit_region_size(tape: number, region: number): bigint;
  tacit_play(tape: number, memory: number, size: number, first: number): number;
  tacit_version(): number;
  tacit_rule_name(rule: number): number;
};

/** The verifier does not accept a tape; nothing of it was played. `record` is null where the whole tape is meant. */
export class TapeRefused extends Error {
  readonly rule: number;
  readonly record: number | null;
  readonly sentence: string;

  constructor(rule: number, name: string, record: number | null, sentence: string) {
    const where = record === null ? "" : ` in record ${record}`;
    super(`this tape is refused${where} by rule ${rule} (${name}): ${sentence}`);
    this.rule = rule;
    this.record = record;
    this.sentence = sentence;
  }
}

const ALIGNMENT = 64;
const PAGE = 65536;
const OWN_BYTES = 3 * PAGE; // the engine's stack and constants
const HEADER = { regions: 40, size: 256 };

/** A module of one function, which the runtime accepts if it knows the instructions of the body. */
function accepts(...body: number[]): boolean {
  const code = [0, ...body, 0x0b];
  const module = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 5, 1, 0x60, 0, 1, 0x7b, 3, 2, 1, 0];
  return WebAssembly.validate(new Uint8Array([...module, 0x0a, code.length + 2, 1, code.length, ...code]));
}

const ZEROS = [0x41, 0, 0xfd, 0x11]; // i32.const 0, i32x4.splat

/** Whether this runtime has vectors at all; without them no build of the engine runs. */
export function hasVectors(): boolean {
  return accepts(...ZEROS);
}

/** Whether this runtime multiplies and adds in one instruction. */
export function hasRelaxedVectors(): boolean {
  return accepts(...ZEROS, ...ZEROS, ...ZEROS, 0xfd, 0x85, 0x02);
}

/** The memory that these tapes need together, if they share their regions: what `Engine.start` is to be given. */
export function bytesNeeded(tapes: readonly Uint8Array[]): number {
  const most = new Array<number>(REGIONS).fill(0);
  let total = OWN_BYTES;
  for (const tape of tapes) {
    if (tape.byteLength < HEADER.size) throw new Error("a tape has a header of 256 bytes");
    const header = new DataView(tape.buffer, tape.byteOffset);
    for (let region = 0; region < REGIONS; region++)
      most[region] = Math.max(most[region]!, Number(header.getBigUint64(HEADER.regions + 8 * region, true)));
    total += 2 * (tape.byteLength + 2 * ALIGNMENT); // as it is handed over, and the engine's own copy
  }
  for (const size of most) total += size + 2 * ALIGNMENT;
  return total + PAGE;
}

/** A tape that was verified. It is played on memory of the engine that opened it. */
export class Tape {
  readonly engine: Engine;
  readonly handle: number;
  readonly kind: number;
  readonly records: number;
  readonly operations: bigint;
  readonly moved: bigint;
  /** The bytes of every region that it touches. */
  readonly regions: ReadonlyMap<number, number>;

  constructor(engine: Engine, handle: number) {
    const { exports } = engine;
    this.engine = engine;
    this.handle = handle;
    this.kind = exports.tacit_kind(handle);
    this.records = exports.tacit_record_count(handle);
    this.operations = BigInt.asUintN(64, exports.tacit_operations(handle));
    this.moved = BigInt.asUintN(64, exports.tacit_moved(handle));
    const regions = new Map<number, number>();
    for (let region = 0; region < REGIONS; region++) {
      const size = Number(exports.tacit_region_size(handle, region));
      if (size > 0) regions.set(region, size);
    }
    this.regions = regions;
  }

  /** Plays it once. `first` says that this is a minibatch's first micro-batch: what accumulates begins anew. */
  play(places: Places, first: boolean): void {
    const { engine } = this;
    const table = engine.table;
    for (let region = 0; region < REGIONS; region++) {
      const block = places.get(region);
      table[region] = block ? block.at : 0;
      table[REGIONS + region] = block ? block.size : 0;
    }
    const sizes = table.byteOffset + 4 * REGIONS;
    const result = engine.exports.tacit_play(this.handle, table.byteOffset, sizes, first ? 1 : 0);
    if (result === 0) return;
    const why = ["", "one is absent or smaller than the tape says", "one is not at a multiple of 64", "two overlap"];
    throw new Error(`nothing was played, because of the regions given: ${why[result] ?? result}`);
  }

  /** Gives its memory back. It must not be played afterwards. */
  close(): void {
    this.engine.exports.tacit_close(this.handle);
  }
}

export class Engine {
  readonly exports: Exports;
  readonly memory: WebAssembly.Memory;
  /** Whether multiplications and additions may round once, as on a native processor with FMA. */
  readonly relaxed: boolean;
  /** Room for the two arrays that a play takes. */
  readonly table: Uint32Array;

  private constructor(exports: Exports, memory: WebAssembly.Memory, relaxed: boolean) {
    this.exports = exports;
    this.memory = memory;
    this.relaxed = relaxed;
    this.table = new Uint32Array(memory.buffer, this.allocate(8 * REGIONS).at, 2 * REGIONS);
  }

  /** An engine with so many bytes of memory, all of it made here. Takes the relaxed build where the runtime can. */
  static async start(modules: Modules, bytes: number): Promise<Engine> {
    if (!hasVectors())
      throw new Error("this runtime has no WebAssembly vectors (SIMD), which tacit's engine needs; update it");
    const relaxed = modules.relaxed !== undefined && hasRelaxedVectors();
    const pages = Math.ceil(Math.max(bytes, OWN_BYTES + PAGE) / PAGE);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    const module = await WebAssembly.compile(relaxed ? modules.relaxed! : modules.plain);
    const instance = await WebAssembly.instantiate(module, { env: { memory } });
    return new Engine(instance.exports as unknown as Exports, memory, relaxed);
  }

  /** A block of memory that begins at a multiple of 64. What it holds is not said. */
  allocate(size: number): Block {
    const at = this.exports.tacit_allocate(size);
    if (at === 0) throw new Error(`the engine's memory has no block of ${size} bytes left; start it with more`);
    return { at: at >>> 0, size };
  }

  free(block: Block): void {
    this.exports.tacit_free(block.at);
  }

  /** Zeroed memory for regions of these sizes. */
  place(regions: ReadonlyMap<number, number>): Places {
    const places: Places = new Map();
    for (const [region, size] of regions) {
      places.set(region, this.allocate(size));
      this.bytes(places.get(region)!).fill(0);
    }
    return places;
  }

  bytes(block: Block): Uint8Array {
    return new Uint8Array(this.memory.buffer, block.at, block.size);
  }

  floats(block: Block): Float32Array {
    return new Float32Array(this.memory.buffer, block.at, block.size >> 2);
  }

  /** Copies and verifies a tape. Throws TapeRefused with the rule that it breaks. */
  open(tape: Uint8Array, limits?: Limits): Tape {
    const bytes = this.allocate(tape.byteLength + 1);
    const room = this.allocate(32); // limits (two of 8 bytes), the tape, and the refusal (three of 4 bytes)
    try {
      this.bytes(bytes).set(tape);
      const view = new DataView(this.memory.buffer, room.at, room.size);
      if (limits) {
        view.setBigUint64(0, limits.mostOperations, true);
        view.setBigUint64(8, limits.mostBytes, true);
      }
      const cost = limits ? room.at : 0;
      const rule = this.exports.tacit_open(bytes.at, tape.byteLength, cost, room.at + 16, room.at + 20);
      if (rule === 0) return new Tape(this, view.getUint32(16, true));
      const record = view.getInt32(24, true);
      const sentence = this.text(view.getUint32(28, true));
      throw new TapeRefused(rule, this.text(this.exports.tacit_rule_name(rule)), record < 0 ? null : record, sentence);
    } finally {
      this.free(room);
      this.free(bytes);
    }
  }

  private text(at: number): string {
    const bytes = new Uint8Array(this.memory.buffer, at);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }
}
