// The endpoint from the page's side: one question out, events or one answer in, problems as kind words.

// Where the page was loaded from, so that a prefix before the routes does not matter.
const at = (path) => new URL(path, document.baseURI).href;

const KIND_WORDS = {
  "unauthorized": "This server needs an access key, and this is not one that it takes.",
  "body-too-large": "That is more than the server takes at once. A smaller picture or a shorter fleet will do.",
  "picture-too-large": "This picture is larger than the server takes. Make it smaller and try again.",
  "unsupported-picture": "This file is not a picture that the model can read. Use a JPEG, PNG or WebP that does not move.",
  "unreadable-picture": "This picture is damaged or not complete: it could not be opened.",
  "deadline-exceeded": "The answer took too long and was given up. Try again, perhaps without reasoning.",
  "rate-limited": "That was a lot of questions in a short time. Wait a moment.",
  "quota-exhausted": "This key has used up its questions.",
  "overloaded": "The server is busy.",
  "not-ready": "The model is still being loaded.",
  "shutting-down": "The server is being restarted.",
  "internal": "Something went wrong at the server. It is not your question.",
};

export class Refused extends Error {
  constructor(problem, retryAfter = null) {
    const slug = (problem.type || "").replace("urn:embervlm:problem:", "");
    super(KIND_WORDS[slug] || "The question could not be answered.");
    this.slug = slug;
    this.status = problem.status;
    // The server's own words say what the kind ones leave out; for these they would only repeat them.
    this.detail = problem.detail || "";
    this.faults = problem.errors || [];
    this.requestId = problem.request_id || "";
    this.retryAfter = retryAfter;
  }
}

function headers(key, extra = {}) {
  return key ? { ...extra, Authorization: `Bearer ${key}` } : extra;
}

async function refusal(response) {
  let problem;
  try {
    problem = await response.json();
  } catch {
    problem = { status: response.status, detail: `The server said ${response.status} ${response.statusText}.` };
  }
  const wait = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  return new Refused(problem, Number.isFinite(wait) ? wait : null);
}

export async function get(path, key) {
  const response = await fetch(at(path), { headers: headers(key, { Accept: "application/json" }) });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

function body(question) {
  const { image, ...fields } = question;
  if (!image) return [JSON.stringify(fields), { "Content-Type": "application/json" }];
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    form.append(name, typeof value === "string" ? value : JSON.stringify(value));
  }
  form.append("image", image, "picture");
  return [form, {}];
}

const pause = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });

// Ask, and hand over events as they come: {name, data}. A server that is busy is asked again a few times.
export async function* ask(question, { key, stream, signal, onWait }) {
  const accept = stream ? "text/event-stream" : "application/json";
  for (let attempt = 1; ; attempt += 1) {
    const [content, extra] = body(question);
    const response = await fetch(at("v1/select"), {
      method: "POST", body: content, signal,
      headers: headers(key, { ...extra, Accept: accept, "X-Request-Timeout": "120" }),
    });
    if (!response.ok) {
      const error = await refusal(response);
      const wait = error.retryAfter ?? 1;
      if (error.status !== 503 || attempt > 3 || wait > 10) throw error;
      onWait(error, wait);
      await pause(wait + Math.random() / 2, signal);
      continue;
    }
    if (!(response.headers.get("Content-Type") || "").startsWith("text/event-stream")) {
      yield { name: "answer", data: await response.json() };
      return;
    }
    for await (const event of events(response.body)) {
      if (event.name === "error") throw new Refused(event.data);
      yield event;
      if (event.name === "answer") return;
    }
    throw new Refused({ status: 0, type: "internal", detail: "The connection ended before the answer." });
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parse(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});  // the stream may have failed already, and that was told
  }
}

function parse(block) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    const [field, ...more] = line.split(":");
    const value = more.join(":").replace(/^ /, "");
    if (field === "event") name = value;
    if (field === "data") data.push(value);
  }
  return data.length ? { name, data: JSON.parse(data.join("\n")) } : null;
}
