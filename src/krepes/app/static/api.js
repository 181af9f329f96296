// Questions to the server; an error's message is the server's own sentence.

async function answered(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The app does not answer any more: is krepes serve still running?");
  }
  const body = await response.json().catch(() => ({ error: `The answer could not be read (${response.status}).` }));
  if (!response.ok) throw Object.assign(new Error(body.error || String(response.status)), { status: response.status });
  return body;
}

export const get = (path, asked = {}, signal) => answered(path + query(asked), { signal });

export const post = (path, body) =>
  answered(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export const send = (path, body, type) => answered(path, { method: "POST", headers: { "Content-Type": type }, body });

export function query(asked) {
  const given = Object.entries(asked).filter(([, v]) => v !== null && v !== undefined && v !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

export async function job(path, body, tell) {
  const { job: name } = await post(path, body);
  for (;;) {
    const found = await get(`/api/jobs/${encodeURIComponent(name)}`);
    if (found.state === "done") return found.result;
    if (found.state === "failed") throw new Error(found.error);
    tell(`${found.state === "waiting" ? "waiting" : "computing"}, ${Math.round(found.seconds || 0)} s`);
    await new Promise((go) => setTimeout(go, 300));
  }
}
