// A client of the mesh over HTTP, for Node 18 or later without any package: copy it into your application.
//
// GPU_MESH_URL=http://127.0.0.1:8001 GPU_MESH_TOKEN=… node client.mjs

import { randomUUID } from "node:crypto";
import { pathToFileURL } from "node:url";

// Tries of a request, where the mesh is not there or busy; longest pause between two, s; longest wait of one request, s.
const TRIES = 6, LONGEST_PAUSE_S = 30, WAIT_S = 30;

/** The mesh refuses a request: `status`, and `errors` with `field`, `value` and `remedy` of each. */
export class Problem extends Error {
  constructor(status, detail, errors) {
    super(`${status} ${detail}`);
    Object.assign(this, { name: "Problem", status, errors });
  }
}

/** One mesh. */
export class MeshClient {
  constructor(url, token) {
    this.url = url.replace(/\/$/, "");
    this.headers = token ? { Authorization: `Bearer ${token}` } : {};
  }

  /** Have a task done; its id. However often the request is tried, the task is sent once: `key` says which it is. */
  async submit(taskType, args = [], { key = randomUUID(), ...body } = {}) {
    const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
    const told = JSON.stringify({ task_type: taskType, args, ...body });
    const sent = await this.#ask("POST", "/tasks/submit", { headers, body: told });
    return sent.task_id;
  }

  /** The task, once it has ended: `state`, `result`, `error`. */
  async wait(taskId) {
    for (;;) {
      const task = await this.#ask("GET", `/tasks/${encodeURIComponent(taskId)}?wait=${WAIT_S}`);
      if (task.ended) return task;
    }
  }

  /** Take a task back: what it `was`. */
  cancel(taskId) {
    return this.#ask("DELETE", `/tasks/${encodeURIComponent(taskId)}`);
  }

  /**
   * What a task says, as it says it: { name: "piece", data: { text, thinking } }, `restart`, `progress`; last `done`
   * or `error`. A connection that breaks is opened again, and goes on where it was.
   */
  async *stream(taskId) {
    let lastId = "", attempt = 0;
    for (;;) {
      let met = new TypeError("the stream broke off");
      try {
        const headers = { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) };
        const answer = await this.#fetch("GET", `/tasks/${encodeURIComponent(taskId)}/stream`, { headers });
        if (!answer.ok) met = answer;
        else {
          for await (const event of events(answer.body)) {
            [lastId, attempt] = [event.id || lastId, 0];
            yield event;
            if (event.name === "done" || event.name === "error") return;
          }
        }
      } catch (error) {
        met = error;
      }
      attempt = await pause(met, attempt);
    }
  }

  async #ask(method, path, request = {}) {
    for (let attempt = 0; ; ) {
      let met;
      try {
        met = await this.#fetch(method, path, { ...request, signal: AbortSignal.timeout((WAIT_S + 15) * 1000) });
        if (met.ok) return await met.json();
      } catch (error) {
        met = error;
      }
      attempt = await pause(met, attempt);
    }
  }

  #fetch(method, path, { headers, ...request }) {
    return fetch(this.url + path, { method, headers: { ...this.headers, ...headers }, ...request });
  }
}

/** Wait before the next try; its number. Throws what another try would not change. */
async function pause(met, attempt) {
  const isAnswer = met instanceof Response;
  // What fetch throws, and a body that breaks off, are TypeErrors.
  const isPassing = isAnswer ? [429, 502, 503, 504].includes(met.status) : met instanceof TypeError || met.name === "TimeoutError";
  if (attempt + 1 === TRIES || !isPassing) throw isAnswer ? await problem(met) : met;
  const asked = (isAnswer && met.headers.get("Retry-After")) || "";
  const pauseS = Math.min(/^\d+$/.test(asked) ? Number(asked) : 0.5 * 2 ** attempt, LONGEST_PAUSE_S);
  console.log(`the mesh is busy or away: again in ${pauseS} s`);
  await new Promise((resolve) => setTimeout(resolve, pauseS * 1000));
  return attempt + 1;
}

/** Server-sent events: name, data, and the id to go on behind. */
export async function* events(body) {
  let text = "", told = {};
  for await (const chunk of body.pipeThrough(new TextDecoderStream())) {
    const lines = (text + chunk).split(/\r?\n/);
    text = lines.pop();
    for (const line of lines) {
      const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
      if (field) told[field] = value;
      else if (line === "") {
        if ("data" in told) yield { name: told.event ?? "message", data: JSON.parse(told.data), id: told.id };
        told = {};
      }
    }
  }
}

async function problem(answer) {
  const isOurs = (answer.headers.get("content-type") ?? "").startsWith("application/problem+json");
  const told = isOurs ? await answer.json() : { detail: (await answer.text()).slice(0, 200) };
  return new Problem(answer.status, told.detail, told.errors ?? []);
}

/** All that the class can do, once. */
async function main() {
  const mesh = new MeshClient(process.env.GPU_MESH_URL ?? "http://127.0.0.1:8001", process.env.GPU_MESH_TOKEN);

  const texts = ["How do I pay?", "Where is my parcel?"];
  const vectors = await mesh.submit("embeddings", [texts], { business: "internal", priority: 7 });
  const { state, result } = await mesh.wait(vectors);
  console.log(`${vectors} ${state}: ${result.count} vectors of ${result.dimensions} dimensions`);

  const chat = await mesh.submit("llm_inference", ["Say hello"], { business: "customer", requirements: { memory_gb: 1 } });
  let said = "";
  for await (const { name, data } of mesh.stream(chat)) {
    said = name === "restart" ? "" : said + (data.text ?? "");
    if (name === "done" || name === "error") console.log(`${chat} ${data.state}: ${said}`);
  }

  const key = randomUUID();
  const later = await mesh.submit("test", [], { countdown: 600, key });
  const again = await mesh.submit("test", [], { countdown: 600, key });
  console.log(`${later} sent twice, there once: ${later === again}`);
  const { was } = await mesh.cancel(later);
  console.log(`${later} cancelled, it was ${was}: ${(await mesh.wait(later)).state}`);
  try {
    await mesh.submit("embeddings", [["a text"]], { priority: 11 });
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    console.log(`refused: ${error.status} ${error.errors[0].field}=${error.errors[0].value}`);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main();
