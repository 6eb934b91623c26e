// "Where it looks": the words of an answer, and the images with the patches bright that a word attended to.

import { make } from "./text.js";
import { say } from "./words.js";

const FINE = 240; // points on each side of a map: fine enough for the edges of patches
const VEIL = 0.86; // darkness of a patch without attention
let ids = 0; // words that have an id

/** Return the mean attention of words per area of an image, (FINE, FINE) row by row. */
function density(picture, words) {
  const map = new Float32Array(FINE * FINE);
  for (const { rows, columns, box, weights } of picture.views) {
    const [x0, y0, x1, y1] = box;
    const mean = weights[0].map((_, at) => words.reduce((sum, word) => sum + weights[word][at], 0) / words.length);
    const perArea = (rows * columns) / ((x1 - x0) * (y1 - y0));
    for (let y = 0; y < FINE; y++) {
      const row = Math.floor(((((y + 0.5) / FINE) - y0) / (y1 - y0)) * rows);
      if (row < 0 || row >= rows) continue;
      for (let x = 0; x < FINE; x++) {
        const column = Math.floor(((((x + 0.5) / FINE) - x0) / (x1 - x0)) * columns);
        if (column >= 0 && column < columns) map[y * FINE + x] += mean[row * columns + column] * perArea;
      }
    }
  }
  return map;
}

/** Return the share of the words' attention that is on the images, 0 to 1. */
function share(pictures, words) {
  let sum = 0;
  for (const { views } of pictures)
    for (const { weights } of views) for (const word of words) sum += weights[word].reduce((a, b) => a + b, 0);
  return sum / words.length;
}

function veil(map, most) {
  const image = new ImageData(FINE, FINE);
  for (let at = 0; at < map.length; at++) {
    const lit = most > 0 ? Math.sqrt(map[at] / most) : 0;
    image.data.set([10, 12, 20, Math.round(255 * VEIL * (1 - lit))], 4 * at);
  }
  return image;
}

/** Name the place of the brightest patches. */
function place(map, most) {
  let [count, x, y] = [0, 0, 0];
  map.forEach((value, at) => {
    if (value < 0.999 * most) return;
    count++;
    x += (at % FINE) + 0.5;
    y += Math.floor(at / FINE) + 0.5;
  });
  const [row, column] = [y, x].map((sum) => Math.min(2, Math.floor((3 * sum) / count / FINE)));
  return say("places")[3 * row + column];
}

/** Return the part of the image that a single view shows, or null if it shows all. */
function frame({ views }) {
  const [x0, y0, x1, y1] = views[0].box.map((edge) => Math.min(1, Math.max(0, edge)));
  return views.length > 1 || (x1 - x0) * (y1 - y0) > 0.999 ? null : [x0, y0, x1, y1];
}

function figure(picture, seen, number) {
  const canvas = make("canvas", { width: FINE, height: FINE, role: "img", "aria-label": say("overlay", { number }) });
  const image = make("img", { src: picture.url, alt: "" });
  const shown = make("div", { class: "seen" }, image, canvas);
  shown.style.setProperty("--shape", picture.width / picture.height);
  const edges = frame(seen);
  if (edges) {
    const line = make("div", { class: "frame" });
    const [left, top, right, bottom] = edges;
    Object.assign(line.style, { left: `${100 * left}%`, top: `${100 * top}%` });
    Object.assign(line.style, { width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%` });
    shown.append(line);
  }
  return { node: make("li", {}, shown), pen: canvas.getContext("2d"), seen, framed: Boolean(edges) };
}

/** Return the element with an answer's words to point at, and the images that follow. */
export function attentionView(maps, pictures) {
  const figures = maps.pictures.map((seen, at) => figure(pictures[at], seen, at + 1));
  const all = maps.words.map((_, word) => word);
  const told = make("p", { class: "share", role: "status" });
  const options = maps.words.map((word, at) => {
    const space = /^\s*/.exec(word)[0];
    const node = make("span", { class: "word", role: "option", id: `word-${++ids}`, "data-at": at,
      "aria-selected": "false", text: word.slice(space.length) });
    return { space, node };
  });
  const list = make("div", { class: "words", role: "listbox", tabindex: "0", "aria-label": say("words") });
  for (const { space, node } of options) list.append(space, node);

  let chosen = null; // index of a word; null: all
  const show = (word) => {
    const words = word === null ? all : [word];
    const densities = figures.map(({ seen }) => density(seen, words));
    const peaks = densities.map((map) => map.reduce((best, value) => Math.max(best, value), 0));
    const most = Math.max(...peaks);
    figures.forEach(({ pen }, at) => pen.putImageData(veil(densities[at], most), 0, 0));
    options.forEach(({ node }, at) => node.setAttribute("aria-selected", String(at === word)));
    if (word === null) list.removeAttribute("aria-activedescendant");
    else list.setAttribute("aria-activedescendant", options[word].node.id);
    const best = peaks.indexOf(most);
    const name = word === null ? say("whole") : `“${maps.words[word].trim()}”`;
    const percent = (100 * share(maps.pictures, words)).toFixed(0);
    const where = place(densities[best], most);
    told.textContent = figures.length > 1
      ? say("shareMany", { word: name, percent, place: where, number: best + 1 })
      : say("share", { word: name, percent, place: where });
  };
  const wordAt = (event) => {
    const node = event.target.closest(".word");
    return node ? Number(node.dataset.at) : null;
  };
  list.addEventListener("pointerover", (event) => { if (wordAt(event) !== null) show(wordAt(event)); });
  list.addEventListener("pointerleave", () => show(chosen));
  list.addEventListener("click", (event) => {
    const word = wordAt(event);
    chosen = word === chosen ? null : word;
    show(chosen);
  });
  list.addEventListener("keydown", (event) => {
    const last = all.length - 1;
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key in steps) chosen = Math.min(last, Math.max(0, (chosen ?? (steps[event.key] > 0 ? -1 : 1)) + steps[event.key]));
    else if (event.key === "Home") chosen = 0;
    else if (event.key === "End") chosen = last;
    else if (event.key === "Escape") chosen = null;
    else return;
    event.preventDefault();
    event.stopPropagation(); // Escape must not stop an answer from here
    show(chosen);
    if (chosen !== null) options[chosen].node.scrollIntoView({ block: "nearest" });
  });
  show(null);
  const notes = [make("p", { class: "small", text: say("looksTold") })];
  if (figures.some(({ framed }) => framed)) notes.push(make("p", { class: "small", text: say("looksFrame") }));
  return make("div", { class: "looks" },
    make("div", { class: "reading" }, list, told, ...notes),
    make("ul", { class: "figures" }, ...figures.map(({ node }) => node)));
}
