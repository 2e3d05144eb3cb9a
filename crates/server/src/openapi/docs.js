// Lists the calls of /openapi.json and tries them. Text from the server is only ever shown as text.
"use strict";

const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  made.append(...children);
  return made;
}

function authorization() {
  const key = byId("key").value.trim();
  return key ? { authorization: `Bearer ${key}` } : {};
}

function field(place, name, schema, required, summary, text) {
  const input = element(text === undefined ? "input" : "textarea", { name, "data-place": place });
  if (required) input.required = true;
  if (text !== undefined) input.value = text;
  const about = [schema.type || "", required ? "required" : "", summary || ""].filter(Boolean).join(" · ");
  return element("label", {}, element("span", {}, name), input, element("small", {}, about));
}

function example(schema, schemas) {
  const resolved = schema.$ref ? schemas[schema.$ref.split("/").pop()] : schema;
  const wanted = resolved.required || Object.keys(resolved.properties || {});
  return JSON.stringify(Object.fromEntries(wanted.map((name) => [name, ""])), null, 2);
}

function fields(call, schemas) {
  const made = (call.parameters || []).map((p) => field(p.in, p.name, p.schema, p.required, p.description));
  const content = (call.requestBody || {}).content || {};
  const form = (content["multipart/form-data"] || {}).schema;
  Object.entries((form || {}).properties || {}).forEach(([name, schema]) => {
    made.push(field("form", name, schema, (form.required || []).includes(name), schema.description));
  });
  const json = (content["application/json"] || {}).schema;
  if (json) made.push(field("body", "body", { type: "JSON" }, true, "", example(json, schemas)));
  return made;
}

function request(method, path, form) {
  const inputs = [...form.querySelectorAll("[data-place]")].filter((input) => input.value !== "");
  const at = (place) => inputs.filter((input) => input.dataset.place === place);
  const target = at("path").reduce((all, input) => all.replace(`{${input.name}}`, encodeURIComponent(input.value)), path);
  const query = new URLSearchParams(at("query").map((input) => [input.name, input.value])).toString();
  const headers = authorization();
  at("header").forEach((input) => { headers[input.name] = input.value; });
  const options = { method, headers };
  if (at("form").length) {
    options.body = new FormData();
    at("form").forEach((input) => options.body.append(input.name, input.value));
  } else if (at("body").length) {
    headers["content-type"] = "application/json";
    options.body = at("body")[0].value;
  }
  return fetch(query ? `${target}?${query}` : target, options);
}

// Streams are shown as they come; whatever is long is cut.
async function show(response, out) {
  out.textContent = `${response.status} ${response.statusText}\n`;
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    out.textContent += value;
    if (out.textContent.length > 200000) {
      out.textContent += "\n…";
      await reader.cancel();
      break;
    }
  }
  const [head, ...rest] = out.textContent.split("\n");
  try {
    out.textContent = `${head}\n${JSON.stringify(JSON.parse(rest.join("\n")), null, 2)}`;
  } catch { /* not JSON: shown as it is */ }
}

function entry(method, path, call, schemas) {
  const out = element("pre", { hidden: "" });
  const form = element("form", {}, ...fields(call, schemas), element("button", {}, "Try"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    out.hidden = false;
    out.textContent = "…";
    try {
      await show(await request(method, path, form), out);
    } catch (error) {
      out.textContent = String(error);
    }
  });
  const scope = element("span", { class: "scope" }, call["x-scope"] || "");
  const head = element("summary", {}, element("span", { class: "method" }, method), element("code", {}, path), ` ${call.summary || ""} `, scope);
  return element("details", { "data-text": `${method} ${path} ${call.summary || ""}`.toLowerCase() }, head, form, out);
}

function list(document_) {
  const groups = new Map();
  Object.entries(document_.paths).forEach(([path, item]) => {
    ["get", "post", "put", "patch", "delete"].filter((method) => item[method]).forEach((method) => {
      const call = item[method];
      const tag = (call.tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(entry(method.toUpperCase(), path, call, document_.components.schemas));
    });
  });
  const sections = [...groups].map(([tag, entries]) => element("section", {}, element("h2", {}, tag), ...entries));
  byId("title").textContent = `${document_.info.title} ${document_.info.version}`;
  byId("calls").replaceChildren(...sections);
}

function filter() {
  const wanted = byId("filter").value.toLowerCase();
  document.querySelectorAll("details").forEach((call) => { call.hidden = !call.dataset.text.includes(wanted); });
}

async function load() {
  const response = await fetch("/openapi.json", { headers: authorization() });
  if (response.ok) list(await response.json());
  else byId("calls").textContent = `The description could not be read: ${response.status}. Enter a key.`;
}

byId("filter").addEventListener("input", filter);
byId("key").addEventListener("change", load);
load();
