// Trains one visit of a Plan on examples of this machine, in WebAssembly: node train.ts ENGINE PLAN EXAMPLES SEED DELTA

import { readFileSync, writeFileSync } from "node:fs"
import { Engine, type Course, type Examples } from "./engine.ts"
import { readPlan, type Plan } from "./plan.ts"

// How many (four bytes), the rows of each input, the labels, the weights: docs/reference/embedding.md.
function readExamples(file: Uint8Array, plan: Plan): Examples {
  const numbers = new Float32Array(file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength))
  const count = new Uint32Array(numbers.buffer)[0]
  let at = 1
  const take = (shape: number[]) => numbers.subarray(at, (at += count * shape.reduce((a, b) => a * b, 1)))
  const { inputs, label } = plan.manifest.program
  const examples = { inputs: inputs.map(field => take(field.shape)), labels: take(label.shape), weights: take([]) }
  if (count === 0 || at !== numbers.length) throw new Error("this is not a file of examples of this Plan")
  return examples
}

// Every epoch's examples, shuffled (xorshift32: it protects nobody), and cut into minibatches.
function drawCourse(plan: Plan, count: number, seed: number): Course {
  const { local, program } = plan.manifest
  const used = program.whole ? count - (count % local.minibatch) : count
  const order: number[] = []
  const minibatches: number[] = []
  let word = seed
  for (let epoch = 0; epoch < local.epochs; epoch++) {
    const shuffled: number[] = []
    for (let i = 0; i < count; i++) {
      word ^= word << 13
      word ^= word >>> 17
      word ^= word << 5
      const j = (word >>> 0) % (i + 1)
      shuffled[i] = shuffled[j]
      shuffled[j] = i
    }
    order.push(...shuffled.slice(0, used))
    for (let left = used; left > 0; left -= local.minibatch) minibatches.push(Math.min(left, local.minibatch))
  }
  const rates = minibatches.map(() => program.optimizer.rate)
  return {
    order: Uint32Array.from(order), minibatches: Uint32Array.from(minibatches), rates: Float32Array.from(rates),
    seed: BigInt(seed),
  }
}

const [wasm, planFile, examplesFile, seed, deltaFile] = process.argv.slice(2)
const file = readFileSync(planFile)
const plan = await readPlan(file)
if (plan.manifest.local.balance) throw new Error("this Plan trains from a shifted bias, which this example does not do")
const examples = readExamples(readFileSync(examplesFile), plan)
const { arena, arena_prefix, state, io } = plan.manifest.program.resources
const need = 2 * file.length + arena + arena_prefix + 2 * state + 2 * io + 2 * readFileSync(examplesFile).length
const engine = await Engine.load(readFileSync(wasm), need)
const visit = engine.visit(plan, examples, drawCourse(plan, examples.weights.length, Number(seed)))
while (visit.play()) if (visit.where.within === 0) console.log(`step ${visit.where.steps}: loss ${visit.where.loss}`)
writeFileSync(deltaFile, visit.delta)
console.log(`${visit.where.microbatches} micro-batches, ${visit.delta.length} values in ${deltaFile}`)
