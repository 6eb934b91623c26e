// The page's texts in English and Korean. ?lang= decides, else the last choice, else the browser's language.

import { recall, remember } from "./keep.js";
import en from "./words.en.json" with { type: "json" };
import ko from "./words.ko.json" with { type: "json" };

const TEXTS = { en, ko };

function firstLanguage() {
  const chosen = [new URLSearchParams(location.search).get("lang"), recall("language")];
  for (const name of [...chosen, ...navigator.languages]) {
    const known = name?.toLowerCase().split("-")[0];
    if (known && Object.hasOwn(TEXTS, known)) return known;
  }
  return "en";
}

export let language = firstLanguage();

/** The text of a name, with `values` in place of {their names}. */
export function say(name, values = {}) {
  const text = TEXTS[language][name];
  return typeof text === "string" ? text.replace(/{(\w+)}/g, (_, key) => values[key]) : text;
}

/** Switch to the other language; the caller shows all texts again. */
export function switchLanguage() {
  language = language === "en" ? "ko" : "en";
  remember("language", language);
  const address = new URL(location.href);
  address.searchParams.delete("lang");
  history.replaceState(null, "", address);
}

/** Fill in the texts of all elements that name one. */
export function showWords(root = document) {
  document.documentElement.lang = language;
  for (const node of root.querySelectorAll("[data-word]")) node.textContent = say(node.dataset.word);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", say(node.dataset.label));
    if (node.tagName === "BUTTON") node.title = say(node.dataset.label);
  }
  for (const node of root.querySelectorAll("[data-placeholder]")) node.placeholder = say(node.dataset.placeholder);
}
