// The fleet editor: one card a robot, one line an entry.

const LISTS = ["capabilities", "limitations", "environments"];

export class FleetEditor {
  constructor(place, template, changed) {
    this.place = place;
    this.template = template;
    this.changed = changed;
    this.default = [];
    place.addEventListener("input", (event) => {
      if (event.target.classList.contains("name")) this.#title(event.target.closest(".robot"));
      this.changed();
    });
    place.addEventListener("click", (event) => {
      if (event.target.classList.contains("remove")) this.#remove(event.target.closest(".robot"));
    });
  }

  setDefault(robots) {
    this.default = robots;
    this.show(robots);
  }

  show(robots) {
    this.place.replaceChildren();
    for (const robot of robots) this.#card(robot);
    this.changed();
  }

  add() {
    const card = this.#card({ name: "" });
    this.changed();
    card.querySelector(".name").focus();
  }

  // The robots as the API takes them.
  robots() {
    return [...this.place.querySelectorAll(".robot")].map((card) => {
      const robot = { name: card.querySelector(".name").value.trim() };
      for (const list of LISTS) {
        robot[list] = card.querySelector(`.${list}`).value.split("\n").map((line) => line.trim()).filter(Boolean);
      }
      return robot;
    });
  }

  // null while it is the default fleet: then the server's own is meant, whose state it keeps.
  asked() {
    const robots = this.robots();
    const same = JSON.stringify(robots) === JSON.stringify(this.default.map((robot) => ({
      name: robot.name, capabilities: robot.capabilities, limitations: robot.limitations, environments: robot.environments,
    })));
    return this.default.length && same ? null : robots;
  }

  // What is wrong before anybody is asked: {message, field}, or null.
  fault() {
    if (!this.default.length && !this.place.childElementCount) return null;  // not loaded: the server's own is meant
    if (!this.place.childElementCount) return { message: "The fleet is empty. Add a robot, or go back to the default fleet." };
    const seen = new Set();
    for (const field of this.place.querySelectorAll(".name")) {
      const name = field.value.trim();
      if (!name) return { field, message: "A robot needs a name." };
      if (seen.has(name)) return { field, message: `Two robots are called “${name}”. Names must differ.` };
      seen.add(name);
    }
    return null;
  }

  // The field that a dotted path of a problem means, as fleet.2.name.
  fieldAt(path) {
    const [, index, list] = path.match(/(?:fleet|robots)\D*(\d+)(?:\.(\w+))?/) || [];
    const card = this.place.querySelectorAll(".robot")[Number(index)];
    return card ? card.querySelector(`.${list || "name"}`) || card.querySelector(".name") : null;
  }

  #card(robot) {
    const card = this.template.content.firstElementChild.cloneNode(true);
    card.querySelector(".name").value = robot.name;
    for (const list of LISTS) card.querySelector(`.${list}`).value = (robot[list] || []).join("\n");
    this.place.append(card);
    this.#title(card);
    return card;
  }

  #title(card) {
    const name = card.querySelector(".name").value.trim() || "New robot";
    card.querySelector("legend").textContent = name;
    card.querySelector(".remove").setAttribute("aria-label", `Remove ${name}`);
  }

  #remove(card) {
    const next = card.nextElementSibling || card.previousElementSibling;
    card.remove();
    this.changed();
    (next ? next.querySelector(".name") : document.getElementById("add-robot")).focus();
  }
}
