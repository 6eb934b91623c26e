// The server's API: OpenAI's chat completions, and attention maps (/v1/looks).

const KEY = "vistune.key";

/** An error of the API; status 0: the server was not reached. */
export class ApiError extends Error {
  constructor({ status, code, message, retryAfter }) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

export const saveKey = (key) => sessionStorage.setItem(KEY, key);

async function request(path, body, signal) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const how = { method: body ? "POST" : "GET", headers, signal, cache: "no-store", credentials: "omit" };
  let response;
  try {
    response = await fetch(path, { ...how, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError({ status: 0, code: "unreachable", message: "" });
  }
  if (response.ok) return response;
  const error = (await response.json().catch(() => ({}))).error ?? {};
  throw new ApiError({
    status: response.status,
    code: String(error.code ?? ""),
    message: String(error.message ?? `status ${response.status}`),
    retryAfter: response.headers.get("Retry-After"),
  });
}

/** The one model: {id, max_output_tokens, max_pictures, …}. */
export async function model() {
  return (await (await request("/v1/models")).json()).data[0];
}

export async function samples() {
  return (await request("/page/samples.json")).json();
}

export async function attention(body, signal) {
  return (await request("/v1/looks", body, signal)).json();
}

/** Call `hear` with each piece of the answer; return the finish reason. Throws ApiError, or AbortError when stopped. */
export async function answer(body, { signal, hear }) {
  const response = await request("/v1/chat/completions", { ...body, stream: true }, signal);
  let reason = null;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return reason;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError({ status: response.status, code: chunk.error.code, message: chunk.error.message });
    const choice = chunk.choices[0];
    if (choice?.delta.content) hear(choice.delta.content);
    reason = choice?.finish_reason ?? reason;
  }
  throw new ApiError({ status: 0, code: "broken", message: "" });
}

/** Yield the data of server-sent events. */
async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let waiting = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      waiting += decoder.decode(value, { stream: true });
      const whole = waiting.split("\n\n");
      waiting = whole.pop();
      for (const event of whole) {
        const data = event.split("\n").filter((line) => line.startsWith("data: "));
        if (data.length) yield data.map((line) => line.slice(6)).join("\n");
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError({ status: 0, code: "broken", message: "" });
  } finally {
    reader.cancel().catch(() => {});
  }
}
