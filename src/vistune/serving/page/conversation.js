// The conversation: questions with images and their answers. It survives a reload of its tab.
//
// turn: {text, pictures: [{name, url, width, height}], answer: {text, state, reason, error}}
// state: "writing", "done", "stopped" or "failed". An image that was lost in a reload has no url.

const PLACE = "vistune.conversation";

export class Conversation {
  constructor() {
    this.turns = [];
    this.isKept = true; // including the images
  }

  /** Return the conversation that this tab had before its reload, which stopped a running answer. */
  static restored() {
    const conversation = new Conversation();
    try {
      conversation.turns = JSON.parse(sessionStorage.getItem(PLACE) ?? "[]");
    } catch {
      conversation.turns = [];
    }
    for (const { answer } of conversation.turns) if (answer.state === "writing") answer.state = "stopped";
    return conversation;
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

  /** Remove a turn and everything after it. */
  cut(turn) {
    this.turns.splice(this.turns.indexOf(turn));
  }

  clear() {
    this.turns = [];
    this.save();
  }

  /** Save the conversation; return whether its images were saved too. */
  save() {
    const bare = (turn) => ({ ...turn, pictures: turn.pictures.map((picture) => ({ ...picture, url: null })) });
    this.isKept = [this.turns, this.turns.map(bare)].findIndex((turns) => stored(turns)) === 0;
    return this.isKept;
  }

  /** Return the API's messages up to a turn's question. A question without an answer is joined to the next. */
  messages(upto) {
    const messages = [];
    for (const turn of this.turns) {
      const parts = turn.pictures.map((picture) => ({ type: "image_url", image_url: { url: picture.url } }));
      if (turn.text) parts.push({ type: "text", text: turn.text });
      if (messages.at(-1)?.role === "user") messages.at(-1).content.push({ type: "text", text: "\n" }, ...parts);
      else messages.push({ role: "user", content: parts });
      if (turn === upto) break;
      if (turn.answer.text) messages.push({ role: "assistant", content: turn.answer.text });
    }
    return messages;
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
    sessionStorage.removeItem(PLACE); // the older state must not come back
    return false;
  }
}
