// What the page says, in English and Korean; which of them: ?lang=, else what was chosen before, else the browser's.

import { recall, remember } from "./keep.js";

const WORDS = {
  en: {
    skip: "Skip to the question",
    tools: "Tools",
    anew: "New conversation",
    settings: "Settings",
    temperature: "Temperature",
    temperatureTold: "0: always the likeliest words. Higher: more varied.",
    length: "Longest answer",
    lengthTold: "Tokens; a word is one or a few.",
    themes: { auto: "Colours: as the system", light: "Colours: light", dark: "Colours: dark" },
    other: "한국어",
    otherLabel: "페이지를 한국어로 보기",
    welcome: "What would you like to know about a picture?",
    welcomeTold: "Show one or several, then ask. They go to this server and nowhere else.",
    choose: "Choose pictures",
    chooseTold: "or drop them anywhere, or paste them",
    samples: "Or try one of these",
    conversation: "Conversation",
    ask: "Ask",
    chosen: "Pictures to send",
    question: "Your question",
    questionHint: "Ask about the picture…",
    send: "Send",
    stop: "Stop the answer",
    keys: "Enter sends, Shift + Enter begins a line.",
    caution: "Answers can be wrong.",
    drop: "Drop pictures here",
    copy: "Copy",
    copied: "Copied",
    copyFailed: "The browser did not let it be copied.",
    again: "Answer again",
    edit: "Edit",
    editLabel: "Edit your question",
    editSend: "Send again",
    editTold: "What follows this question is dropped.",
    cancel: "Cancel",
    remove: (name) => `Remove ${name}`,
    picture: (name) => `Picture: ${name}`,
    lost: "Picture not kept",
    answering: "The answer is being written.",
    answered: (text) => `Answer: ${text}`,
    empty: "The model gave an empty answer.",
    stopped: "Stopped.",
    cut: "Cut off at the longest answer; raise it in the settings.",
    failed: "No answer",
    retry: "Try again",
    looks: "Where it looks",
    looksHide: "Hide where it looks",
    looking: "Looking…",
    words: "Words of the answer: move over them, or use the arrow keys",
    whole: "The whole answer",
    share: (word, percent, place) => `${word}: ${percent} % of its attention lay on the picture, most at the ${place}.`,
    shareMany: (word, percent, place, number) =>
      `${word}: ${percent} % of its attention lay on the pictures, most in picture ${number} at the ${place}.`,
    places: ["top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right"],
    looksTold: "Bright patches are those the later layers read as they wrote the word. It shows what was read, not why.",
    looksFrame: "The model saw what is inside the dashed line.",
    overlay: (number) => `Where it looks in picture ${number}`,
    keyTitle: "This server asks for a key",
    keyTold: "Whoever runs it can give you one. It is kept in this tab until you close it.",
    key: "API key",
    keySave: "Go on",
    keyWrong: "The server does not know this key.",
    notPicture: (name) => `${name} is no picture that this browser can read.`,
    smaller: (name) => `${name} was made smaller before sending.`,
    tooMany: (most) => `A conversation takes ${most} pictures here.`,
    notKept: "The pictures are too large for this browser to keep: after a reload the text is there, they are not.",
    lostSend: "A picture of this conversation was not kept over the reload. Edit its question to show it again, or begin anew.",
    unreachable: "The server cannot be reached.",
    errors: {
      queue_full: "The server is busy; try again in a moment.",
      bodies_full: "The server is busy; try again in a moment.",
      timeout: "It took too long.",
      shutting_down: "The server is shutting down.",
      internal_error: "The server failed.",
      invalid_image: "The server cannot read a picture.",
      context_length_exceeded: "The conversation is too long for this model.",
      body_too_large: "The pictures are too large to send together.",
      broken: "The connection broke off.",
    },
  },
  ko: {
    skip: "질문으로 건너뛰기",
    tools: "도구",
    anew: "새 대화",
    settings: "설정",
    temperature: "온도",
    temperatureTold: "0이면 늘 가장 그럴듯한 낱말을 고릅니다. 높을수록 다양해집니다.",
    length: "답변의 최대 길이",
    lengthTold: "토큰 수입니다. 한 낱말은 토큰 한두 개입니다.",
    themes: { auto: "색: 시스템 설정대로", light: "색: 밝게", dark: "색: 어둡게" },
    other: "English",
    otherLabel: "Show the page in English",
    welcome: "사진에 대해 무엇이 궁금하세요?",
    welcomeTold: "사진을 한 장 또는 여러 장 올리고 물어보세요. 사진은 이 서버로만 보내집니다.",
    choose: "사진 고르기",
    chooseTold: "아무 데나 끌어다 놓거나 붙여 넣어도 됩니다",
    samples: "이런 것부터 해 보세요",
    conversation: "대화",
    ask: "질문하기",
    chosen: "보낼 사진",
    question: "질문",
    questionHint: "사진에 대해 물어보세요…",
    send: "보내기",
    stop: "답변 멈추기",
    keys: "Enter는 보내기, Shift + Enter는 줄 바꿈입니다.",
    caution: "답변은 틀릴 수 있습니다.",
    drop: "여기에 사진을 놓으세요",
    copy: "복사",
    copied: "복사했습니다",
    copyFailed: "브라우저가 복사를 막았습니다.",
    again: "다시 답하기",
    edit: "고치기",
    editLabel: "질문 고치기",
    editSend: "다시 보내기",
    editTold: "이 질문 뒤의 대화는 지워집니다.",
    cancel: "취소",
    remove: (name) => `${name} 빼기`,
    picture: (name) => `사진: ${name}`,
    lost: "보관하지 못한 사진",
    answering: "답변을 쓰고 있습니다.",
    answered: (text) => `답변: ${text}`,
    empty: "모델이 빈 답변을 주었습니다.",
    stopped: "멈추었습니다.",
    cut: "최대 길이에서 끊겼습니다. 설정에서 늘릴 수 있습니다.",
    failed: "답변을 받지 못했습니다",
    retry: "다시 시도",
    looks: "어디를 보았나",
    looksHide: "본 곳 숨기기",
    looking: "살펴보는 중…",
    words: "답변의 낱말: 낱말 위로 움직이거나 화살표 키를 쓰세요",
    whole: "답변 전체",
    share: (word, percent, place) => `${word}: 주의의 ${percent} %가 사진에 있었고, ${place}에 가장 많았습니다.`,
    shareMany: (word, percent, place, number) =>
      `${word}: 주의의 ${percent} %가 사진들에 있었고, ${number}번째 사진의 ${place}에 가장 많았습니다.`,
    places: ["왼쪽 위", "위쪽", "오른쪽 위", "왼쪽", "가운데", "오른쪽", "왼쪽 아래", "아래쪽", "오른쪽 아래"],
    looksTold: "밝은 조각은 낱말을 쓸 때 뒤쪽 층들이 읽은 곳입니다. 무엇을 읽었는지를 보일 뿐, 까닭은 아닙니다.",
    looksFrame: "모델은 점선 안쪽만 보았습니다.",
    overlay: (number) => `${number}번째 사진에서 본 곳`,
    keyTitle: "이 서버는 키가 필요합니다",
    keyTold: "서버를 운영하는 분에게 받으세요. 이 탭을 닫을 때까지만 보관됩니다.",
    key: "API 키",
    keySave: "계속",
    keyWrong: "서버가 모르는 키입니다.",
    notPicture: (name) => `${name}: 이 브라우저가 읽을 수 있는 사진이 아닙니다.`,
    smaller: (name) => `${name}: 보내기 전에 줄였습니다.`,
    tooMany: (most) => `한 대화에 사진은 ${most}장까지입니다.`,
    notKept: "사진이 너무 커서 브라우저에 보관할 수 없습니다. 새로 고치면 글은 남고 사진은 사라집니다.",
    lostSend: "새로 고치면서 이 대화의 사진이 사라졌습니다. 그 질문을 고쳐 사진을 다시 올리거나 새 대화를 시작하세요.",
    unreachable: "서버에 연결할 수 없습니다.",
    errors: {
      queue_full: "서버가 바쁩니다. 잠시 뒤에 다시 시도해 주세요.",
      bodies_full: "서버가 바쁩니다. 잠시 뒤에 다시 시도해 주세요.",
      timeout: "너무 오래 걸렸습니다.",
      shutting_down: "서버가 꺼지는 중입니다.",
      internal_error: "서버에 오류가 났습니다.",
      invalid_image: "서버가 사진을 읽지 못했습니다.",
      context_length_exceeded: "이 모델이 읽기에는 대화가 너무 깁니다.",
      body_too_large: "한 번에 보내기에는 사진이 너무 큽니다.",
      broken: "연결이 끊겼습니다.",
    },
  },
};

function firstLanguage() {
  const wanted = [new URLSearchParams(location.search).get("lang"), recall("language")];
  for (const name of [...wanted, ...navigator.languages]) {
    const known = name?.toLowerCase().split("-")[0];
    if (known && Object.hasOwn(WORDS, known)) return known;
  }
  return "en";
}

export let language = firstLanguage();

export const say = (name) => WORDS[language][name];

/** The other language from now on; whoever shows words shows them anew. */
export function switchLanguage() {
  language = language === "en" ? "ko" : "en";
  remember("language", language);
  const address = new URL(location.href);
  address.searchParams.delete("lang");
  history.replaceState(null, "", address);
}

/** Words of everything in the document that names them. */
export function showWords(root = document) {
  document.documentElement.lang = language;
  for (const node of root.querySelectorAll("[data-word]")) node.textContent = say(node.dataset.word);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", say(node.dataset.label));
    if (node.tagName === "BUTTON") node.title = say(node.dataset.label);
  }
  for (const node of root.querySelectorAll("[data-placeholder]")) node.placeholder = say(node.dataset.placeholder);
}
