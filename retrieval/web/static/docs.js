// openapi.json for people.

import { byId, html } from "./dom.js";

const description = await (await fetch("openapi.json", { credentials: "same-origin" })).json();

function type(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  const names = [schema.type ?? "value"].flat().map((name) => (name === "array" ? `list of ${type(schema.items ?? {})}` : name));
  const allowed = schema.enum ? `: ${schema.enum.map((one) => JSON.stringify(one)).join(", ")}` : "";
  const preset = schema.default === undefined ? "" : `; default ${JSON.stringify(schema.default)}`;
  return `${names.join(" or ")}${allowed}${preset}`;
}

function fields(schema) {
  const rows = Object.entries(schema.properties ?? {}).flatMap(([name, one]) => [
    html("dt", {}, html("code", {}, name)),
    html("dd", {}, [type(one), one.description].filter(Boolean).join(" – ")),
  ]);
  return html("dl", {}, ...rows);
}

function example(method, path, operation) {
  const url = new URL(path.replace("{id}", "ID").slice(1), location.href).href;
  const form = operation.requestBody?.content["multipart/form-data"];
  if (!form) {
    const needed = (operation.parameters ?? []).filter((one) => one.in === "query" && one.required).map((one) => `${one.name}=ID`);
    return `curl '${url}${needed.length ? `?${needed.join("&")}` : ""}'`;
  }
  return `curl -F photograph=@tower.jpg${form.schema.properties.box ? " -F box=120,40,420,600 -F top=10" : ""} ${url}`;
}

function operation(method, path, one) {
  const parameters = (one.parameters ?? []).flatMap((given) => [
    html("dt", {}, html("code", {}, given.name), given.required ? " (needed)" : ""),
    html("dd", {}, `${type(given.schema)} – ${given.description}`),
  ]);
  const bodies = Object.entries(one.requestBody?.content ?? {}).flatMap(([kind, { schema }]) => [html("h4", {}, kind), fields(schema)]);
  const answers = Object.entries(one.responses).flatMap(([status, answer]) => [
    html("dt", {}, html("code", {}, status)),
    html("dd", {}, [answer.description, answer.content ? type(Object.values(answer.content)[0].schema) : null].filter(Boolean).join(" – ")),
  ]);
  return html(
    "section", { class: "operation" },
    html("h3", {}, html("span", { class: "method" }, method), path),
    html("p", {}, [one.summary, one.description].filter(Boolean).join(". ")),
    parameters.length ? html("dl", {}, ...parameters) : null,
    ...bodies,
    html("h4", {}, "Answers"), html("dl", {}, ...answers),
    html("pre", { tabindex: "0" }, html("code", {}, example(method, path, one))),
  );
}

byId("text").textContent = description.info.description;
const all = Object.entries(description.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, one]) => operation(method, path, one)));
byId("operations").replaceChildren(html("h2", {}, "Addresses"), ...all);
byId("schemas").replaceChildren(
  ...Object.entries(description.components.schemas).map(([name, schema]) => html("section", { class: "operation" }, html("h3", { id: name }, name), fields(schema))),
);
