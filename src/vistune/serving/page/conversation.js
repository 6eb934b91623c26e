// The conversation: questions with pictures and their answers. It survives a reload of its tab, and no more.
//
// turn: {text, pictures: [{name, url, width, height}], answer: {text, state, reason, error}}
// state: "writing", "done", "stopped" or "failed". A picture that was not kept over a reload has no url.

const PLACE = "vistune.conversation";

export class Conversation {
  constructor() {
    this.turns = [];
    this.isKept = true; // pictures too
  }

  /** The one that this tab had before its reload. What was being written then was stopped by it. */
  static restored() {
    const made = new Conversation();
    try {
      made.turns = JSON.parse(sessionStorage.getItem(PLACE) ?? "[]");
    } catch {
      made.turns = [];
    }
    for (const { answer } of made.turns) if (answer.state === "writing") answer.state = "stopped";
    return made;
  }

  get pictures() {
    return this.turns.flatMap((turn) => turn.pictures);
  }

  get last() {
    return this.turns.at(-1);
  }

  add(text, pictures) {
    const answer = { text: "", state: "writing", reason: null, error: null };
    this.turns.push({ text, pictures, answer });
    return this.last;
  }

  /** The question of a turn anew, without what followed it. */
  cut(turn) {
    this.turns.splice(this.turns.indexOf(turn));
  }

  clear() {
    this.turns = [];
    this.save();
  }

  /** Whether the pictures were kept too. */
  save() {
    const bare = (turn) => ({ ...turn, pictures: turn.pictures.map((picture) => ({ ...picture, url: null })) });
    this.isKept = [this.turns, this.turns.map(bare)].findIndex((turns) => stored(turns)) === 0;
    return this.isKept;
  }

  /** The API's messages up to a turn's question. A question that got no answer is asked together with the next. */
  messages(upto) {
    const said = [];
    for (const turn of this.turns) {
      const parts = turn.pictures.map((picture) => ({ type: "image_url", image_url: { url: picture.url } }));
      if (turn.text) parts.push({ type: "text", text: turn.text });
      if (said.at(-1)?.role === "user") said.at(-1).content.push({ type: "text", text: "\n" }, ...parts);
      else said.push({ role: "user", content: parts });
      if (turn === upto) break;
      if (turn.answer.text) said.push({ role: "assistant", content: turn.answer.text });
    }
    return said;
  }

  picturesUpto(turn) {
    return this.turns.slice(0, this.turns.indexOf(turn) + 1).flatMap(({ pictures }) => pictures);
  }
}

function stored(turns) {
  try {
    sessionStorage.setItem(PLACE, JSON.stringify(turns));
    return true;
  } catch {
    sessionStorage.removeItem(PLACE); // what was there would come back as if it were the newest
    return false;
  }
}
