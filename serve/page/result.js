// The answer as it arrives, and when it is there.

const $ = (id) => document.getElementById(id);
const PARTS = ["ranking-part", "team-part", "look-part", "reasoning-part", "plan-part", "more"];
// embervlm.data.images.MAX_ASPECT: of a longer picture the model sees the middle.
const MAX_ASPECT = 1.5;
// Fewer than this share of the validation inputs were as far from training.
const UNFAMILIAR = 0.05;

// No chance is shown as none or as certain that is neither.
const percent = (share) =>
  share > 0 && share < 0.005 ? "< 1 %" : share < 1 && share >= 0.995 ? "> 99 %" : `${Math.round(100 * share)} %`;

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function clear() {
  for (const part of PARTS) $(part).hidden = true;
  $("problem").hidden = true;
  for (const list of ["ranking", "team", "steps", "plan", "facts", "look"]) $(list).replaceChildren();
  $("steps").classList.remove("writing");
}

// More text of a step of the reasoning or of an entry of the plan.
export function grow(which, delta) {
  const list = $(which === "plan" ? "plan" : "steps");
  $(which === "plan" ? "plan-part" : "reasoning-part").hidden = false;
  while (list.childElementCount <= delta.step) list.append(element("li", ""));
  list.children[delta.step].textContent += delta.text;
  $("steps").classList.toggle("writing", which !== "plan");
}

export function show(answer, pictureUrl) {
  ranking(answer);
  $("team").replaceChildren(...answer.team.map((name) => element("li", name)));
  $("team-part").hidden = false;
  steps(answer);
  look(answer, pictureUrl);
  facts(answer);
}

function ranking(answer) {
  const team = new Set(answer.team);
  $("ranking").replaceChildren(...answer.robots.map(({ robot, confidence }) => {
    const row = element("li", undefined, team.has(robot) ? "in-team" : "");
    const line = element("div", undefined, "robot-line");
    const name = element("span", robot);
    if (team.has(robot)) name.append(element("span", "send", "sent"));
    line.append(name, element("span", percent(confidence)));
    const bar = element("div", undefined, "bar");
    bar.setAttribute("aria-hidden", "true");  // the number beside it says the same
    const fill = element("div");
    fill.style.width = `${100 * confidence}%`;
    bar.append(fill);
    row.append(line, bar);
    return row;
  }));
  line("none-of-these", answer.none_of_these, (share) => `None of these can do it: ${percent(share)}.`);
  line("familiarity", answer.familiarity, (share) =>
    `${share < UNFAMILIAR ? "Unlike what the model was trained on" : "Like what the model was trained on"}: familiarity ${percent(share)}.`);
  $("ranking-part").hidden = false;
}

// A line about a share, hidden where the model cannot tell.
function line(id, share, words) {
  $(id).hidden = share == null;
  $(id).textContent = share == null ? "" : words(share);
}

function steps(answer) {
  const written = (answer.reasoning || "").split("\n").filter(Boolean);
  $("steps").classList.remove("writing");
  $("steps").replaceChildren(...written.map((text) => element("li", text)));
  $("reasoning-part").hidden = !written.length;
  $("plan").replaceChildren(...answer.plan.map((step) => {
    const entry = element("li", `${step.subtask} `);
    entry.append(element("strong", step.robot));
    return entry;
  }));
  $("plan-part").hidden = !answer.plan.length;
}

function facts(answer) {
  const { model, timings } = answer;
  const rows = {
    "Model": `${model.name} ${model.version}${model.alias ? ` (${model.alias})` : ""}`,
    "Fleet": `${answer.fleet.name ?? "as edited here"}, ${answer.fleet.robots} robots`,
    "Time": `${timings.total_ms.toFixed(0)} ms: reading ${timings.read_ms.toFixed(0)}, waiting ${timings.queue_ms.toFixed(0)}, model ${timings.model_ms.toFixed(0)}`,
    "Request": answer.request_id,
  };
  $("facts").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
  $("raw").textContent = JSON.stringify(answer, null, 2);
  $("more").hidden = false;
}

// ------------------------------------------------------------------ where it looked

let maps = [];

function look(answer, pictureUrl) {
  maps = answer.attention || [];
  $("look-part").hidden = !maps.length || !pictureUrl;
  if ($("look-part").hidden) return;
  $("look").replaceChildren(...maps.map(({ robot }) => element("option", robot)));
  const image = $("looked-at");
  image.onload = draw;
  image.src = pictureUrl;
  draw();
}

export function watchLook() {
  $("look").addEventListener("change", draw);
  new ResizeObserver(draw).observe($("looked-at"));
}

function draw() {
  const image = $("looked-at");
  const map = maps[$("look").selectedIndex];
  if (!map || !image.naturalWidth) return;
  const { weights } = map;
  words(map.robot, weights);
  place($("heat"), image);
  const [least, most] = [Math.min(...weights.flat()), Math.max(...weights.flat())];
  const small = new OffscreenCanvas(weights[0].length, weights.length);
  const cells = small.getContext("2d");
  weights.forEach((row, y) => row.forEach((weight, x) => {
    // What was looked at less than halfway between least and most is darkened, what was looked at more is lit.
    const share = most > least ? (weight - least) / (most - least) : 0.5;
    cells.fillStyle = share < 0.5 ? `rgb(0 0 0 / ${0.75 - 1.5 * share})` : `rgb(255 196 120 / ${share - 0.5})`;
    cells.fillRect(x, y, 1, 1);
  }));
  const heat = $("heat");
  const context = heat.getContext("2d");
  context.clearRect(0, 0, heat.width, heat.height);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, heat.width, heat.height);
}

// The canvas over the part of the picture that the model sees.
function place(canvas, image) {
  const [width, height] = [image.clientWidth, image.clientHeight];
  const side = MAX_ASPECT * Math.min(width, height);
  const [wide, high] = [Math.min(width, side), Math.min(height, side)];
  canvas.width = Math.round(wide);
  canvas.height = Math.round(high);
  canvas.style.width = `${wide}px`;
  canvas.style.height = `${high}px`;
  canvas.style.left = `${(width - wide) / 2}px`;
  canvas.style.top = `${(height - high) / 2}px`;
}

// The same in words, for those who do not see it.
function words(robot, weights) {
  const rows = weights.length;
  const cells = weights.flatMap((row, y) => row.map((weight, x) => ({ weight, x, y }))).sort((a, b) => b.weight - a.weight);
  const where = ({ x, y, weight }) => {
    const part = (i, count, names) => names[Math.min(2, Math.floor((3 * (i + 0.5)) / count))];
    const place = `${part(y, rows, ["upper", "middle", "lower"])} ${part(x, weights[0].length, ["left", "centre", "right"])}`;
    return `${place} (${percent(weight)})`;
  };
  $("look-words").textContent = `Judging ${robot}, it looked most at: ${cells.slice(0, 3).map(where).join(", ")}. The brighter, the more. It shows what was read, not why it decided.`;
}
