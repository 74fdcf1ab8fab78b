// Reads a Plan (src/tacit/plan/bundle.py says what its bytes are) where there is WebCrypto: in node and in browsers.
//
// Checked here: the author's signature over the manifest, and every blob's digest. The caller compares the author with
// the one it expects. Not checked here: the charter, that the manifest has no doubled or unknown key, and the numbers of
// privacy and quantisation, which `tacit inspect` checks; what leaves a device should not rest on this reader alone. The
// tapes are verified by the engine, and so is every place in the visit.

export type Place = {
  name: string; shape: number[]; form: "vector" | "dense" | "conv" | "rows"; place: "state" | "frozen"
  offset: number; image: number[] | null; groups: number
}
export type Field = { name: string; shape: number[]; dtype: string; offset: number; channels_last: boolean }
export type Manifest = {
  format: number
  title: string
  local: { epochs: number; minibatch: number; balance: boolean; whole: boolean }
  program: {
    microbatch: number; d: number; places: Place[]; inputs: Field[]; label: Field; whole: boolean
    kept: { offset: number; example_bytes: number }[]; optimizer: { rate: number }
    resources: { arena: number; arena_prefix: number; state: number; io: number }
  }
  blobs: { name: string; size: number; sha256: string }[]
}
export type Plan = { author: string; id: string; manifest: Manifest; blobs: Map<string, Uint8Array> }

const FORMAT = 2
const HEADER = 192
const ALIGNMENT = 64

const hex = (bytes: Uint8Array) => Array.from(bytes, byte => byte.toString(16).padStart(2, "0")).join("")
const sha256 = async (bytes: Uint8Array) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))
const up = (size: number) => Math.ceil(size / ALIGNMENT) * ALIGNMENT

export async function readPlan(file: Uint8Array): Promise<Plan> {
  const header = new DataView(file.buffer, file.byteOffset, HEADER)
  const text = new TextDecoder()
  if (text.decode(file.subarray(0, 8)) !== "TACITPLN" || header.getUint32(8, true) !== FORMAT)
    throw new Error(`this is not a Plan of format ${FORMAT}`)
  const [manifestSize, charterSize] = [header.getUint32(12, true), header.getUint32(16, true)]
  const signed = file.subarray(HEADER, HEADER + manifestSize)
  const id = await sha256(signed)
  const author = file.subarray(24, 56)
  const key = await crypto.subtle.importKey("raw", author, "Ed25519", false, ["verify"])
  const statement = new Uint8Array([...new TextEncoder().encode("TACIT1/plan\0"), ...id])
  if (!(await crypto.subtle.verify("Ed25519", key, file.subarray(56, 120), statement)))
    throw new Error("this Plan's signature does not fit its contents: it was altered or its author is another")
  const manifest: Manifest = JSON.parse(text.decode(signed))
  const blobs = new Map<string, Uint8Array>()
  let at = up(HEADER + manifestSize + charterSize)
  for (const { name, size, sha256: digest } of manifest.blobs) {
    const blob = file.subarray(at, at + size)
    if (blob.length !== size || btoa(String.fromCharCode(...(await sha256(blob)))) !== digest)
      throw new Error(`this Plan was altered: ${name} is not what its author signed`)
    blobs.set(name, blob)
    at += up(size)
  }
  return { author: hex(author), id: hex(id), manifest, blobs }
}
