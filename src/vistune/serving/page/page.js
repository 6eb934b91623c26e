// The page: its parts and events.

import * as api from "./api.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { recall, remember } from "./keep.js";
import { make } from "./text.js";
import { TurnView, told } from "./turn.js";
import { language, say, showWords, switchLanguage } from "./words.js";

const $ = (id) => document.getElementById(id);
const conversation = Conversation.restored();
const views = new Map(); // turn -> its view
let served = null; // the model
let isLeaving = false; // the page is being left or reloaded
let isLossTold = false; // whether the user knows that a reload loses the images
let stopping = null; // AbortController of the running answer

const page = {
  isBusy: () => stopping !== null,
  isLast: (turn) => turn === conversation.last,
  again: (turn) => write(turn),
  resend,
  copy,
  attention: (turn) =>
    withKey(async () => api.attention({ model: await name(), messages: conversation.messages(turn), answer: turn.answer.text })),
};

const composer = new Composer({
  ask,
  notice,
  room: () => (served?.max_pictures ?? 32) - conversation.pictures.length,
});

const name = async () => (served ??= await api.model()).id;

/** Show a notice above the conversation; `button`: [label, action]. Without a text, hide it. */
function notice(text, button = null) {
  $("notice").hidden = !text;
  $("notice-text").textContent = text ?? "";
  $("notice-button").hidden = !button;
  $("notice-button").textContent = button?.[0] ?? "";
  $("notice-button").onclick = button?.[1] ?? null;
}

const announce = (text) => { $("status").textContent = text; };

/** Return the result of `work`; ask for an API key first if the server needs one. */
async function withKey(work) {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (error.status !== 401) throw error;
      await askKey();
    }
  }
}

let keyRequest = null;

/** Resolve when the user has given a key that the server accepts. */
function askKey() {
  keyRequest ??= new Promise((resolve) => {
    $("key-wrong").hidden = true;
    $("key-dialog").oncancel = (event) => event.preventDefault(); // nothing works without a key
    $("key-form").onsubmit = async (event) => {
      event.preventDefault();
      api.saveKey($("key").value.trim());
      try {
        served = await api.model();
      } catch (error) {
        $("key-wrong").textContent = error.status === 401 ? say("keyWrong") : told(error);
        $("key-wrong").hidden = false;
        return;
      }
      $("key").value = "";
      $("key-dialog").close();
      keyRequest = null;
      resolve();
    };
    $("key-dialog").showModal();
  });
  return keyRequest;
}

async function connect() {
  try {
    served = await withKey(api.model);
  } catch (error) {
    notice(told(error), [say("retry"), connect]);
    return;
  }
  notice(null);
  $("model").textContent = served.id;
  $("model").hidden = false;
  const longest = Math.min(1024, served.max_output_tokens ?? 1024);
  $("length").max = longest;
  $("length").min = Math.min(16, longest);
  showSettings();
}

function ask(text, pictures) {
  if (page.isBusy()) return false;
  if (conversation.pictures.some(({ url }) => !url)) {
    notice(say("lostSend"));
    return false;
  }
  const before = conversation.last;
  const turn = conversation.add(text, pictures);
  if (before) views.get(before).show(); // only the last answer can be repeated
  addView(turn);
  write(turn);
  return true;
}

function resend(turn, text) {
  if (page.isBusy() || !(text || turn.pictures.length)) return;
  const at = conversation.turns.indexOf(turn);
  for (const later of conversation.turns.slice(at)) {
    views.get(later).node.remove();
    views.delete(later);
  }
  conversation.cut(turn);
  const isLost = turn.pictures.some(({ url }) => !url);
  if (isLost) { // the user adds its images again
    composer.fill(text);
    notice(null);
    conversation.save();
    showAll();
  } else if (!ask(text, turn.pictures)) {
    composer.fill(text, turn.pictures);
    showAll();
  }
}

/** Request the answer of the last turn, and show it while it is written. */
async function write(turn) {
  if (page.isBusy()) return;
  const view = views.get(turn);
  Object.assign(turn.answer, { text: "", state: "writing", reason: null, error: null });
  view.maps = null;
  view.looks.replaceChildren();
  stopping = new AbortController();
  showBusy();
  view.show();
  showEnd();
  conversation.save();
  announce(say("answering"));
  let drawing = 0;
  const hear = (piece) => {
    turn.answer.text += piece;
    drawing ||= requestAnimationFrame(() => { drawing = 0; if (stopping) follow(() => view.show()); });
  };
  try {
    const { signal } = stopping;
    const body = { messages: conversation.messages(turn), ...settings() };
    turn.answer.reason = await withKey(async () => api.answer({ model: await name(), ...body }, { signal, hear }));
    turn.answer.state = "done";
  } catch (error) {
    const isStopped = error.name === "AbortError" || isLeaving;
    turn.answer.state = isStopped ? "stopped" : "failed";
    if (!isStopped) turn.answer.error = { status: error.status ?? 1, code: error.code ?? "", message: error.message };
  }
  cancelAnimationFrame(drawing);
  stopping = null;
  if (!conversation.save() && !isLossTold) notice(say("notKept"));
  isLossTold = !conversation.isKept;
  follow(() => {
    showBusy();
    view.show();
  });
  const { state, text, error } = turn.answer;
  announce(state === "failed" ? told(error) : state === "stopped" ? say("stopped") : say("answered", { text }));
}

const settings = () => ({ temperature: Number($("temperature").value), max_tokens: Number($("length").value) });

async function copy(text, button) {
  let words = say("copied");
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    words = say("copyFailed");
  }
  button.lastChild.textContent = words;
  announce(words);
  setTimeout(() => { button.lastChild.textContent = say("copy"); }, 1800);
}

function addView(turn) {
  const view = new TurnView(turn, conversation.picturesUpto(turn), page);
  views.set(turn, view);
  $("turns").append(view.node);
  showWelcome();
}

function showAll() {
  views.clear();
  $("turns").replaceChildren();
  conversation.turns.forEach(addView);
  showWelcome();
}

function showWelcome() {
  $("welcome").hidden = conversation.turns.length > 0;
  $("anew").disabled = conversation.turns.length === 0;
}

function showBusy() {
  $("send").hidden = page.isBusy();
  $("stop").hidden = !page.isBusy();
  document.body.classList.toggle("busy", page.isBusy());
}

/** Keep the end in view after a change, unless the reader has scrolled up. */
function follow(change) {
  const { scrollHeight, scrollTop, clientHeight } = document.documentElement;
  const wasAtEnd = scrollHeight - scrollTop - clientHeight < 160;
  change();
  if (wasAtEnd) showEnd();
}

function showEnd() {
  document.documentElement.scrollTop = document.documentElement.scrollHeight;
}

function showSettings() {
  for (const name of ["temperature", "length"]) {
    $(`${name}-shown`).textContent = $(name).value;
    $(name).oninput = () => { remember(name, $(name).value); showSettings(); };
  }
}

function showTheme() {
  const theme = recall("theme", "auto");
  document.documentElement.dataset.theme = theme;
  $("theme").setAttribute("aria-label", say("themes")[theme] ?? say("themes").auto);
  $("theme").title = $("theme").getAttribute("aria-label");
}

async function showSamples() {
  const listing = await api.samples().catch(() => ({ samples: [] })); // samples are optional
  const rows = listing.samples;
  $("scenes-only").hidden = !listing.scenes_only;
  $("samples").hidden = !rows.length;
  $("sample-list").replaceChildren(...rows.map(({ picture, questions }) => {
    const question = questions[language] ?? questions.en;
    const take = async () => {
      const file = await (await fetch(picture)).blob();
      await composer.take([new File([file], picture.split("/").at(-1), { type: file.type })]);
      composer.fill(question);
    };
    return make("li", {}, make("button", { type: "button", class: "sample", on: { click: take } },
      make("img", { src: picture, alt: "", width: 132, height: 132, loading: "lazy" }), make("span", { text: question })));
  }));
}

function showLanguage() {
  showWords();
  $("language").textContent = say("other");
  $("language").lang = language === "en" ? "ko" : "en";
  $("language").setAttribute("aria-label", say("otherLabel"));
  showTheme();
  composer.show();
  showAll();
  showSamples();
}

$("stop").onclick = () => { stopping?.abort(); $("question").focus(); };
$("anew").onclick = () => { stopping?.abort(); conversation.clear(); notice(null); showAll(); $("question").focus(); };
$("language").onclick = () => { if (!page.isBusy()) { switchLanguage(); showLanguage(); } };
$("theme").onclick = () => {
  const order = ["auto", "light", "dark"];
  remember("theme", order[(order.indexOf(recall("theme", "auto")) + 1) % 3]);
  showTheme();
};
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && stopping) stopping.abort(); });
window.addEventListener("beforeunload", () => { isLeaving = true; }); // a broken answer is no error then
window.addEventListener("pagehide", () => conversation.save());
window.addEventListener("pageshow", () => { isLeaving = false; });
for (const [name, usual] of [["temperature", "0.2"], ["length", "256"]]) $(name).value = recall(name, usual);
showSettings();
showLanguage();
showEnd();
connect();
