// One turn on the page: the question with its images, the answer, and their buttons.

import { attentionView } from "./attention.js";
import { icon, make, rendered } from "./text.js";
import { say } from "./words.js";

/** Show an image. Its bytes were decoded as an image before, so nothing else is ever shown. */
export function thumbnail(picture) {
  return picture.url
    ? make("img", { src: picture.url, alt: say("picture", { name: picture.name }), title: picture.name })
    : make("span", { class: "lost", text: say("lost"), title: picture.name });
}

export function action(name, label, on, extra = {}) {
  return make("button", { type: "button", class: "action", on: { click: on }, ...extra }, icon(name), make("span", { text: label }));
}

const KNOWN = new Set(["queue_full", "bodies_full", "timeout", "shutting_down"]); // the server's message adds nothing

/** Describe an error, in the page's language if its code is known, and with the server's message. */
export function told(error) {
  const known = error.status === 0 && error.code === "unreachable" ? say("unreachable") : say("errors")[error.code];
  return [known, KNOWN.has(error.code) ? "" : error.message].filter(Boolean).join(" ");
}

/** `page`: again(turn), resend(turn, text), copy(text), attention(turn), isBusy(), isLast(turn). */
export class TurnView {
  constructor(turn, pictures, page) {
    Object.assign(this, { turn, pictures, page });
    this.question = make("div", { class: "question" });
    this.body = make("div", { class: "body", dir: "auto" });
    this.looks = make("div", { class: "looks-place" });
    this.note = make("p", { class: "note" });
    this.actions = make("div", { class: "actions" });
    this.maps = null; // the attention maps that are shown
    this.answer = make("div", { class: "answer" }, this.body, this.looks, this.note, this.actions);
    this.node = make("li", { class: "turn" }, this.question, this.answer);
    this.ask();
    this.show();
  }

  /** Show the question with a button to edit it. */
  ask() {
    const { turn } = this;
    const edit = action("edit", say("edit"), () => this.edit());
    this.editButton = edit;
    this.question.replaceChildren(
      make("div", { class: "bubble" },
        turn.pictures.length > 0 && make("div", { class: "thumbnails" }, ...turn.pictures.map(thumbnail)),
        turn.text && make("p", { class: "said", dir: "auto", text: turn.text })),
      make("div", { class: "actions" }, edit));
  }

  edit() {
    if (this.page.isBusy()) return;
    const area = make("textarea", { rows: "2", dir: "auto", "aria-label": say("editLabel") });
    area.value = this.turn.text;
    const send = () => this.page.resend(this.turn, area.value.trim());
    const leave = () => { this.ask(); this.editButton.focus(); };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { event.stopPropagation(); leave(); }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
    });
    const buttons = make("div", { class: "buttons" },
      make("button", { type: "button", text: say("cancel"), on: { click: leave } }),
      make("button", { type: "button", class: "main", text: say("editSend"), on: { click: send } }));
    const kept = this.turn.pictures.length > 0 && make("div", { class: "thumbnails" }, ...this.turn.pictures.map(thumbnail));
    this.question.replaceChildren(
      make("div", { class: "editor" }, kept, area, make("p", { class: "small", text: say("editTold") }), buttons));
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  /** Show the answer as it is now. */
  show() {
    const { answer } = this.turn;
    const isWriting = answer.state === "writing";
    this.node.classList.toggle("writing", isWriting);
    this.answer.setAttribute("aria-busy", String(isWriting));
    this.body.hidden = Boolean(this.maps);
    this.body.replaceChildren(...rendered(answer.text));
    if (isWriting) (this.body.lastElementChild ?? this.body).append(make("span", { class: "caret", "aria-hidden": "true" }));
    this.note.replaceChildren(...this.noteParts());
    this.note.hidden = !this.note.childNodes.length;
    this.note.classList.toggle("wrong", answer.state === "failed");
    this.actions.replaceChildren(...(isWriting ? [] : this.answerActions()));
  }

  noteParts() {
    const { answer } = this.turn;
    if (answer.state === "failed") return [make("strong", { text: `${say("failed")}. ` }), told(answer.error)];
    if (answer.state === "stopped") return [say("stopped")];
    if (answer.state === "done" && !answer.text) return [say("empty")];
    return answer.state === "done" && answer.reason === "length" ? [say("cut")] : [];
  }

  answerActions() {
    const { turn, page } = this;
    const actions = [];
    if (turn.answer.text) actions.push(action("copy", say("copy"), (event) => page.copy(turn.answer.text, event.currentTarget)));
    if (page.isLast(turn)) {
      actions.push(action("again", say(turn.answer.state === "failed" ? "retry" : "again"), () => page.again(turn)));
    }
    if (turn.answer.text && this.pictures.length && this.pictures.every(({ url }) => url)) {
      const label = say(this.maps ? "looksHide" : "looks");
      this.looksButton = action("eye", label, () => this.toggleLooks(), { "aria-expanded": String(Boolean(this.maps)), class: "action eye" });
      actions.push(this.looksButton);
    }
    return actions;
  }

  async toggleLooks() {
    if (this.maps) {
      this.maps = null;
      this.looks.replaceChildren();
    } else {
      this.looksButton.disabled = true;
      this.looksButton.lastChild.textContent = say("looking");
      try {
        this.maps = await this.page.attention(this.turn);
        this.looks.replaceChildren(attentionView(this.maps, this.pictures));
      } catch (error) {
        this.looks.replaceChildren(make("p", { class: "note wrong", role: "alert", text: told(error) }));
      }
    }
    this.show();
    this.looksButton?.focus();
  }
}
