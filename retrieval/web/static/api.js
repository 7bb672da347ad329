// Requests to the server; whatever goes wrong becomes an Error with a sentence for people.
// Addresses are relative, here as everywhere: the page may lie below any path of a proxy.

const MOST_IDS = 200; // that one request may ask for
const PATIENCE = 4; // attempts while the server has too much to do

async function ask(url, options = {}, attempt = 1) {
  let response;
  try {
    response = await fetch(url, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.status === 503 && attempt < PATIENCE) {
    const seconds = Number(response.headers.get("retry-after")) || 2;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    options.signal?.throwIfAborted();
    return ask(url, options, attempt + 1);
  }
  let answer = null;
  try {
    answer = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (!response.ok || answer === null) {
    const said = answer?.error ?? `the server answered with status ${response.status}`;
    const error = new Error(`${said[0].toUpperCase()}${said.slice(1)}.`);
    error.status = response.status;
    throw error;
  }
  return answer;
}

export const about = () => ask("api/index");
export const photograph = (id, signal) => ask(`api/images/${encodeURIComponent(id)}`, { signal });

export function images(page, size, text, signal) {
  return ask(`api/images?${new URLSearchParams({ page, size, q: text })}`, { signal });
}

export function search(wanted, signal) {
  const headers = { "content-type": "application/json" };
  return ask("api/search", { method: "POST", headers, body: JSON.stringify(wanted), signal });
}

export function explain(query, box, hit, mirror, expand, signal) {
  const parameters = new URLSearchParams({ query, hit });
  if (mirror) parameters.set("mirror", "true");
  if (expand) parameters.set("expand", expand);
  if (box) parameters.set("box", box.join(","));
  return ask(`api/explain?${parameters}`, { signal });
}

export function groups(confidence, page, size, signal) {
  return ask(`api/groups?${new URLSearchParams({ confidence, page: page || 1, size })}`, { signal });
}

export function group(id, confidence, page, signal) {
  const parameters = new URLSearchParams({ confidence });
  if (page) parameters.set("page", page);
  return ask(`api/groups/${encodeURIComponent(id)}?${parameters}`, { signal });
}

export async function groupSizes(ids, signal) {
  const found = {};
  for (let at = 0; at < ids.length; at += MOST_IDS) {
    const parameters = new URLSearchParams({ ids: ids.slice(at, at + MOST_IDS) });
    Object.assign(found, (await ask(`api/group-sizes?${parameters}`, { signal })).sizes);
  }
  return found;
}

export function labels(query, box, signal) {
  const parameters = new URLSearchParams();
  if (query) parameters.set("query", query);
  if (box) parameters.set("box", box.join(","));
  return ask(`api/labels?${parameters}`, { signal });
}

export function mark(wanted) {
  const headers = { "content-type": "application/json" };
  return ask("api/labels", { method: "POST", headers, body: JSON.stringify(wanted) });
}

export function upload(file) {
  const form = new FormData();
  form.append("photograph", file, file.name || "pasted photograph");
  return ask("api/uploads", { method: "POST", body: form });
}
