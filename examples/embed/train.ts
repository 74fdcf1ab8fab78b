// Trains one visit of a Plan on examples of this machine, in WebAssembly:
//     node train.ts ENGINE.wasm PLAN.tacit EXAMPLES SEED DELTA
import { readFileSync, writeFileSync } from "node:fs";
import { Engine } from "../../web/engine.ts";
import { type Plan, readPlan } from "../../web/plan.ts";
import { type Course, type Examples, Visit, visitBytes } from "../../web/visit.ts";

// How many (four bytes), the rows of each input, the labels, the weights: docs/reference/embedding.md.
function readExamples(file: Uint8Array, { manifest: { program } }: Plan): Examples {
  const values = new Float32Array(new Uint8Array(file).buffer);
  const count = new Uint32Array(values.buffer)[0]!;
  let at = 1;
  const take = (shape: readonly number[]) => values.subarray(at, (at += shape.reduce((a, b) => a * b, count)));
  const inputs = program.inputs.map((field) => take(field.shape));
  const examples = { inputs, labels: take(program.label.shape), weights: take([]) };
  if (count === 0 || at !== values.length) throw new Error("this is not a file of examples of this Plan");
  return examples;
}

// Every epoch's examples, shuffled (xorshift32: it protects nobody), and cut into minibatches.
function drawCourse({ manifest: { local, program } }: Plan, count: number, seed: number): Course {
  const order: number[] = [];
  const sizes: number[] = [];
  const used = program.whole ? count - (count % local.minibatch) : count;
  for (let epoch = 0, word = seed; epoch < local.epochs; epoch++) {
    const shuffled: number[] = [];
    for (let i = 0; i < count; i++) {
      word ^= word << 13;
      word ^= word >>> 17;
      word ^= word << 5;
      const j = (word >>> 0) % (i + 1);
      shuffled[i] = shuffled[j]!;
      shuffled[j] = i;
    }
    order.push(...shuffled.slice(0, used));
    for (let left = used; left > 0; left -= local.minibatch) sizes.push(Math.min(left, local.minibatch));
  }
  const rates = sizes.map(() => program.optimizer.rate);
  const [taken, minibatches] = [new Uint32Array(order), new Uint32Array(sizes)];
  return { order: taken, minibatches, rates: new Float32Array(rates), seed: BigInt(seed) };
}

const [wasm, planFile, examplesFile, seed, deltaFile] = process.argv.slice(2) as [string, string, string, string, string];
const plan = await readPlan(readFileSync(planFile));
if (plan.manifest.local.balance)
  throw new Error("this Plan trains from a shifted bias (docs/decisions/0011), which this example does not do");
const examples = readExamples(readFileSync(examplesFile), plan);
const course = drawCourse(plan, examples.weights.length, Number(seed));
const engine = await Engine.start({ plain: readFileSync(wasm) }, visitBytes(plan, examples, course));
const visit = new Visit(engine, plan, examples, course);
for (let more = true; more; ) {
  more = visit.play();
  if (visit.atStep) console.log(`step ${visit.steps} of ${course.minibatches.length}: loss ${visit.loss.toFixed(6)}`);
}
writeFileSync(deltaFile, visit.delta);
console.log(`${visit.microbatches} micro-batches, ${visit.delta.length} values in ${deltaFile}`);
