// The page: picture, task and fleet to a question, and the answer as it comes.

import { Refused, ask, get } from "./api.js";
import { FleetEditor } from "./fleet.js";
import * as result from "./result.js";

const $ = (id) => document.getElementById(id);
let picture = null;  // {blob, url, sample}
let running = null;  // the AbortController of the question under way
let key = "";

const fleet = new FleetEditor($("robots"), $("robot-template"), () => {
  const count = $("robots").childElementCount;
  const kind = fleet.asked() === null ? "the default fleet" : "edited";
  $("fleet-count").textContent = count ? `${count} robot${count === 1 ? "" : "s"}, ${kind}` : "";
});

// ------------------------------------------------------------------ picture

async function take(blob, name, sample = null) {
  drop();
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    say("file-error", `“${name}” does not open as a picture. Use a JPEG, PNG or WebP.`);
    $("file").setAttribute("aria-invalid", "true");
    return;
  }
  picture = { blob, url };
  $("picture").src = url;
  $("picture").alt = sample ? sample.querySelector("img").alt : `The scene: ${name}`;
  $("picture-name").textContent = sample ? "" : name;
  $("preview").hidden = $("no-picture").hidden = false;
  if (sample) sample.setAttribute("aria-pressed", "true");
}

function drop() {
  // The answer on show may still need the old picture: the browser lets go of it with the page.
  picture = null;
  $("preview").hidden = $("no-picture").hidden = true;
  say("file-error", "");
  $("file").removeAttribute("aria-invalid");
  for (const button of $("ours").querySelectorAll("button")) button.setAttribute("aria-pressed", "false");
}

async function takeOurs(button) {
  const response = await fetch(button.querySelector("img").src);
  if (!response.ok) return say("file-error", "This picture could not be loaded.");
  await take(await response.blob(), button.dataset.file, button);
  const known = [...$("ours").querySelectorAll("button")].map((other) => other.dataset.task);
  if (!$("task").value.trim() || known.includes($("task").value)) $("task").value = button.dataset.task;
}

function watchPicture() {
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    if (file) take(file, file.name);
    $("file").value = "";  // so that the same file may be chosen again
  });
  $("no-picture").addEventListener("click", () => { drop(); $("file").focus(); });
  $("ours").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) takeOurs(button);
  });
  const zone = $("drop");
  document.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) zone.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) take(file, file.name);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) take(file, file.name || "pasted picture");
  });
}

// ------------------------------------------------------------------ asking

function say(id, words) {
  $(id).textContent = words;
  $(id).hidden = !words;
}

function status(words) {
  $("status").textContent = words;
}

function mark(field, id, words) {
  say(id, words);
  field.setAttribute("aria-invalid", "true");
  field.focus();
}

// What can be seen to be wrong from here; true where nothing is.
function checked() {
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  say("task-error", "");
  say("fleet-error", "");
  if (!$("task").value.trim()) {
    mark($("task"), "task-error", "Say what is to be done.");
    return false;
  }
  const fault = fleet.fault();
  if (fault) {
    $("fleet-details").open = true;
    mark(fault.field || $("add-robot"), "fleet-error", fault.message);
    return false;
  }
  return true;
}

function question() {
  const asked = { task: $("task").value, reasoning: $("reasoning").checked };
  const robots = fleet.asked();
  if (robots !== null && robots.length) asked.fleet = robots;
  if (picture) Object.assign(asked, { image: picture.blob, attention: $("attention").checked });
  return asked;
}

async function submit() {
  if (running || !checked()) return;
  const asked = question();
  const url = picture?.url;
  running = new AbortController();
  busy(true);
  result.clear();
  status("Asking…");
  $("result").scrollIntoView({ block: "nearest", behavior: "auto" });
  const onWait = (error, seconds) => status(`${error.message} Trying again in ${seconds} s…`);
  try {
    for await (const { name, data } of ask(asked, { key, stream: asked.reasoning, signal: running.signal, onWait })) {
      if (name === "start") status(`Version ${data.model.version} of the model is looking at it…`);
      else if (name === "reasoning" || name === "plan") { status("Reasoning…"); result.grow(name, data); }
      else if (name === "answer") finish(data, url);
    }
  } catch (error) {
    failed(error);
  } finally {
    running = null;
    busy(false);
  }
}

function finish(answer, url) {
  result.show(answer, url);
  const names = answer.team.join(", ").replace(/, ([^,]*)$/, " and $1");
  status(answer.none_of_these > 0.5 ? `Perhaps none of these can do it. The best guess is ${names}.` : `Send ${names}.`);
  $("result").focus({ preventScroll: true });
}

function busy(is) {
  $("ask").disabled = is;
  $("stop").hidden = !is;
  $("result").setAttribute("aria-busy", String(is));
}

function failed(error) {
  $("steps").classList.remove("writing");
  if (error.name === "AbortError") return status("Stopped.");
  status("No answer.");
  const box = $("problem");
  const lines = [];
  if (error instanceof Refused) {
    lines.push(error.message, ...(error.detail && error.slug !== "unauthorized" ? [error.detail] : []));
    lines.push(...error.faults.map((fault) => `${fault.field}: ${fault.message}`));
    if (error.slug === "unauthorized") askForKey();
    blame(error.faults);
  } else {
    lines.push("The server cannot be reached. Is it running, and are you connected?");
  }
  box.replaceChildren(...[...new Set(lines)].map((line) => Object.assign(document.createElement("p"), { textContent: line })));
  if (error.requestId) {
    box.append(Object.assign(document.createElement("p"), { textContent: `Request ${error.requestId}`, className: "quiet" }));
  }
  box.hidden = false;
}

// Mark the fields that the server found wrong.
function blame(faults) {
  for (const { field } of faults) {
    const place = field.startsWith("task") ? $("task") : fleet.fieldAt(field);
    place?.setAttribute("aria-invalid", "true");
    if (place?.closest("details")) place.closest("details").open = true;
  }
}

function askForKey() {
  $("key-card").hidden = false;
  $("key").focus();
}

// ------------------------------------------------------------------ start

async function loadServer() {
  try {
    const [fleets, model] = await Promise.all([get("v1/fleet", key), get("v1/model", key)]);
    fleet.setDefault(fleets.default.robots);
    const { name, version, alias } = model.serving;
    say("served", `Answering: ${name} version ${version}${alias ? `, ${alias}` : ""}`);
    return true;
  } catch (error) {
    if (error instanceof Refused && error.status === 401) {
      askForKey();
      status(key ? "The server does not take this key." : "Enter the access key first.");
    } else {
      status("The server does not answer yet. You may ask all the same.");
    }
    return false;
  }
}

async function useKey() {
  key = $("key").value.trim();
  if (await loadServer()) {
    $("key-card").hidden = true;
    $("problem").hidden = true;
    status("The key is good. Ask away.");
    $("task").focus();
  }
}

watchPicture();
result.watchLook();
$("form").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
$("task").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); submit(); }
});
$("stop").addEventListener("click", () => running?.abort());
$("add-robot").addEventListener("click", () => fleet.add());
$("reset-fleet").addEventListener("click", () => fleet.show(fleet.default));
$("use-key").addEventListener("click", useKey);
$("key").addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); useKey(); } });
loadServer();
