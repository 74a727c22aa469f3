// Calls a proxy through the official OpenAI SDK and prints what each case gave, as one JSON object.
// Environment: BASE_URL, API_KEY, and SDK_ROOT, the folder whose node_modules hold the SDK.

import { createRequire } from "node:module";

const require = createRequire(`${process.env.SDK_ROOT}/`);
const OpenAI = require("openai");

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY, maxRetries: 0 });
const messages = [{ role: "user", content: "通义 🙂" }];
const parameters = { type: "object", properties: { city: { type: "string" }, days: { type: "integer" } } };
const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
const chat = (model, more = {}) => client.chat.completions.create({ model, messages, ...more });

/** The content deltas of a stream, those before a failure included. */
async function streamed(model, more = {}) {
  const deltas = [];
  try {
    for await (const chunk of await chat(model, { stream: true, ...more })) {
      deltas.push(chunk.choices[0].delta);
    }
  } catch (error) {
    return { deltas, error: described(error) };
  }
  return { deltas };
}

function described(error) {
  const kinds = Object.entries(OpenAI).filter(([name, kind]) => name.endsWith("Error") && error instanceof kind);
  return {
    classes: kinds.map(([name]) => name),
    name: error.constructor.name,
    status: error.status ?? null,
    code: error.code ?? null,
    message: error.message,
  };
}

const cases = {
  chat: () => chat("qwen3-max", { temperature: 0 }),
  stream: () => streamed("qwen3-max"),
  tool: () => chat("qwen3-max", { tools }),
  tool_stream: () => client.chat.completions.stream({ model: "qwen3-max", messages, tools }).finalChatCompletion(),
  reasoning: () => streamed("qwen3-max", { enable_thinking: true }),
  async raw() {
    const { response, request_id, data } = await chat("qwen3-max").withResponse();
    return { headers: Object.fromEntries(response.headers), request_id, id: data.id };
  },
  async left_early() {
    const stream = await chat("sim-stall", { stream: true });
    for await (const chunk of stream) {
      return chunk.model;
    }
  },
  embeddings: () => client.embeddings.create({ model: "text-embedding-v4", input: ["a", "通义"], dimensions: 64 }),
  completion: () => client.completions.create({ model: "qwen3-coder-plus", prompt: "x" }),
  async response_stream() {
    const kinds = [];
    for await (const event of await client.responses.create({ model: "qwen3.8-flash", input: "hi", stream: true })) {
      kinds.push(event.type);
    }
    return kinds;
  },
  async models() {
    const ids = [];
    for await (const model of client.models.list()) {
      ids.push(model.id);
    }
    return ids;
  },
  model: () => client.models.retrieve("qwen3-coder-plus"),
  async file() {
    const content = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 256));
    const file = await client.files.create({ file: await OpenAI.toFile(content, "數據.bin"), purpose: "batch" });
    const back = Buffer.from(await (await client.files.content(file.id)).arrayBuffer());
    return { bytes: file.bytes, same: back.equals(content) };
  },
  wrong_key: () => client.withOptions({ apiKey: "wrong" }).models.list(),
  no_model: () => client.models.retrieve("qwen3-coder-plu"),
  error_400: () => chat("sim-400"),
  error_404: () => chat("sim-404-model", { stream: true }),
  error_429: () => chat("sim-429-quota", { stream: true }),
  error_500: () => chat("sim-500"),
  error_502: () => chat("sim-reset-before-head"),
  broken_plain: () => chat("sim-cut"),
  cut: () => streamed("sim-cut"),
  reset: () => streamed("sim-reset"),
  truncate: () => streamed("sim-truncate"),
  cut_in_event: () => streamed("sim-cut-in-event"),
};

const results = {};
for (const [name, run] of Object.entries(cases)) {
  try {
    results[name] = { value: await run() };
  } catch (error) {
    results[name] = { error: described(error) };
  }
}
console.log(JSON.stringify(results));
