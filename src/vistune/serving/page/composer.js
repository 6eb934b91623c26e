// The composer: write a question; choose, drop or paste images.

import { filesIn, readImage } from "./images.js";
import { icon, make } from "./text.js";
import { thumbnail } from "./turn.js";
import { say } from "./words.js";

const $ = (id) => document.getElementById(id);

/** `page`: ask(text, images) returns whether it was accepted; notice(text); room() returns how many more images fit. */
export class Composer {
  constructor(page) {
    this.page = page;
    this.pictures = [];
    $("composer").addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
    const question = $("question");
    question.addEventListener("input", () => this.fit());
    question.addEventListener("keydown", (event) => {
      // While a Korean syllable is composed, Enter ends the syllable.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    for (const id of ["attach", "welcome-choose"]) $(id).addEventListener("click", () => $("files").click());
    $("files").addEventListener("change", async () => {
      const files = [...$("files").files];
      $("files").value = "";
      await this.take(files);
    });
    document.addEventListener("paste", (event) => {
      const files = filesIn(event.clipboardData);
      if (files.length) { event.preventDefault(); this.take(files); }
    });
    this.listenToDrops();
  }

  listenToDrops() {
    let depth = 0; // dragenter and dragleave come for every element on the way
    const over = (change) => { depth = Math.max(0, change(depth)); $("drop").hidden = depth === 0; };
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragenter", (event) => { if (hasFiles(event)) over((d) => d + 1); });
    document.addEventListener("dragleave", (event) => { if (hasFiles(event)) over((d) => d - 1); });
    document.addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
    document.addEventListener("drop", (event) => {
      over(() => 0);
      if (!hasFiles(event)) return;
      event.preventDefault();
      this.take(filesIn(event.dataTransfer));
    });
  }

  /** Add the files that are images, and report the others. */
  async take(files) {
    const notes = [];
    for (const file of files) {
      if (this.page.room() - this.pictures.length <= 0) {
        notes.push(say("tooMany", { most: this.page.room() + this.pictures.length }));
        break;
      }
      const picture = await readImage(file);
      if (!picture) notes.push(say("notPicture", { name: file.name }));
      else this.pictures.push(picture);
      if (picture?.smaller) notes.push(say("smaller", { name: picture.name }));
    }
    this.page.notice(notes.join(" ") || null);
    this.show();
    $("question").focus();
  }

  fill(text, pictures = this.pictures) {
    $("question").value = text;
    this.pictures = [...pictures];
    this.fit();
    this.show();
    $("question").focus();
  }

  send() {
    const text = $("question").value.trim();
    if (!text && !this.pictures.length) return;
    if (this.page.ask(text, this.pictures)) this.fill("", []);
  }

  show() {
    $("chosen").hidden = !this.pictures.length;
    $("chosen").replaceChildren(...this.pictures.map((picture) => {
      const label = say("remove", { name: picture.name });
      const remove = () => { this.pictures = this.pictures.filter((other) => other !== picture); this.show(); $("question").focus(); };
      const button = make("button", { type: "button", class: "remove", "aria-label": label, title: label, on: { click: remove } }, icon("close"));
      return make("li", {}, thumbnail(picture), button);
    }));
  }

  fit() {
    const area = $("question");
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight, 200)}px`;
  }
}
