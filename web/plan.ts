/**
 * Reads a Plan (src/tacit/plan/bundle.py says what its bytes are) where there is WebCrypto: in browsers and in node.
 *
 * Checked here: the author's signature over the manifest, and the digest of every blob. The tapes are verified when the
 * engine opens them, and places when a visit begins. Not checked here: whether the author is the one you expect (compare
 * `author`), the charter, doubled or unknown keys of the manifest, and the numbers of privacy and quantisation, which
 * `tacit inspect` checks. What leaves a device must not rest on this reader alone.
 */

export type Place = {
  readonly shape: readonly number[];
  readonly form: "vector" | "dense" | "conv" | "rows";
  readonly place: "state" | "frozen";
  readonly offset: number;
  readonly image: readonly number[] | null;
  readonly groups: number;
};

export type Field = {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: "float32" | "int32";
  readonly offset: number;
  readonly channels_last: boolean;
};

export type Program = {
  readonly microbatch: number;
  readonly d: number;
  readonly places: readonly Place[];
  readonly inputs: readonly Field[];
  readonly label: Field;
  readonly optimizer: { readonly rate: number };
  readonly whole: boolean;
};

export type Manifest = {
  readonly title: string;
  readonly program: Program;
  readonly local: { readonly epochs: number; readonly minibatch: number; readonly balance: boolean; readonly variance_weight: boolean };
  readonly noise: { readonly mechanism: { readonly type: string } };
  readonly evaluation: object | null;
  readonly blobs: readonly { readonly name: string; readonly size: number; readonly sha256: string }[];
};

/** A Plan whose signature and digests hold. `blobs` are views of its file. */
export type Plan = {
  readonly id: string;
  readonly author: string;
  readonly manifest: Manifest;
  readonly blobs: ReadonlyMap<string, Uint8Array>;
};

export class PlanRefused extends Error {}

const FORMAT = 5;
const HEADER = 192;
const ALIGNMENT = 64;

export async function readPlan(file: Uint8Array): Promise<Plan> {
  const text = new TextDecoder();
  if (file.length < HEADER || text.decode(file.subarray(0, 8)) !== "TACITPLN")
    throw new PlanRefused("this is not a Plan: it does not begin with TACITPLN");
  const header = new DataView(file.buffer, file.byteOffset, HEADER);
  if (header.getUint32(8, true) !== FORMAT) throw new PlanRefused(`this reads Plans of format ${FORMAT} only`);
  const end = HEADER + header.getUint32(12, true);
  const signed = file.subarray(HEADER, end);
  const id = await sha256(signed);
  const author = file.slice(24, 56);
  const key = await crypto.subtle.importKey("raw", author, "Ed25519", false, ["verify"]);
  const statement = new Uint8Array([...new TextEncoder().encode("TACIT1/plan\0"), ...id]);
  if (!(await crypto.subtle.verify("Ed25519", key, file.slice(56, 120), statement)))
    throw new PlanRefused("this Plan's signature does not fit its contents: it was altered or its author is another");
  const manifest: Manifest = JSON.parse(text.decode(signed));
  if (manifest.local.variance_weight)
    throw new PlanRefused("this Plan is for devices that shorten what they send by its scatter; it is not played here");
  // A visit of the first has to add noise of its own, and one of the second judges: neither is what is played here.
  if (manifest.noise.mechanism.type === "local/1" || manifest.evaluation !== null)
    throw new PlanRefused("this Plan is for devices that add noise themselves, or that judge; it is not played here");
  const blobs = new Map<string, Uint8Array>();
  let at = up(end + header.getUint32(16, true));
  for (const { name, size, sha256: digest } of manifest.blobs) {
    const blob = file.subarray(at, at + size);
    if (btoa(String.fromCharCode(...(await sha256(blob)))) !== digest)
      throw new PlanRefused(`this Plan was altered: ${name} is not what its author signed`);
    blobs.set(name, blob);
    at += up(size);
  }
  return { id: hex(id), author: hex(author), manifest, blobs };
}

async function sha256(bytes: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes as BufferSource));
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function up(size: number): number {
  return Math.ceil(size / ALIGNMENT) * ALIGNMENT;
}
