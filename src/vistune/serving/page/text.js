// Show untrusted text as paragraphs, lists and code, with nodes and textContent only. Links stay text.

/** Create an element with attributes, `text`, listeners (`on`) and children. */
export function make(tag, { text, on = {}, ...attributes } = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  if (text !== undefined) node.textContent = text;
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  node.append(...children.filter(Boolean));
  return node;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

const FENCE = /^\s*```[\w+#.-]*\s*$/;
const BULLET = /^\s*[-*•]\s+(.*)$/;
const NUMBER = /^\s*(?:\d{1,3})[.)]\s+(.*)$/;

/** Return the nodes for a text. */
export function rendered(text) {
  const nodes = [];
  const lines = text.split("\n");
  let paragraph = [];
  const flush = () => {
    if (paragraph.length) nodes.push(withSpans("p", paragraph.join("\n")));
    paragraph = [];
  };
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at];
    if (FENCE.test(line)) {
      flush();
      const end = lines.findIndex((other, number) => number > at && FENCE.test(other));
      const code = lines.slice(at + 1, end < 0 ? lines.length : end).join("\n");
      nodes.push(make("pre", {}, make("code", { text: code })));
      at = end < 0 ? lines.length : end;
    } else if (BULLET.test(line) || NUMBER.test(line)) {
      flush();
      const kind = BULLET.test(line) ? BULLET : NUMBER;
      const items = [];
      const start = kind === NUMBER ? Number.parseInt(line, 10) : null;
      while (at < lines.length && kind.test(lines[at])) items.push(kind.exec(lines[at++])[1]);
      at--;
      nodes.push(make(kind === BULLET ? "ul" : "ol", { start }, ...items.map((item) => withSpans("li", item))));
    } else if (line.trim()) {
      paragraph.push(line);
    } else {
      flush();
    }
  }
  flush();
  return nodes;
}

/** Show `code` and **bold** inside a line; everything else unchanged. */
function withSpans(tag, text) {
  const node = make(tag);
  for (const part of text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/)) {
    if (/^`[^`]+`$/.test(part)) node.append(make("code", { text: part.slice(1, -1) }));
    else if (/^\*\*[^*]+\*\*$/.test(part)) node.append(make("strong", { text: part.slice(2, -2) }));
    else node.append(part);
  }
  return node;
}
