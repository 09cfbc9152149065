// Shows the OpenAPI description of the service without code from elsewhere.
const token = sessionStorage.getItem("casewise-token");
const headers = token ? { Authorization: `Bearer ${token}` } : {};

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  if (schema.format === "binary") return "file";
  if (schema.additionalProperties && schema.additionalProperties !== true) return `by name: ${typeOf(schema.additionalProperties)}`;
  return schema.type || "any";
}

function fields(schema) {
  const list = element("dl", "", "facts");
  for (const [name, property] of Object.entries(schema.properties || {})) {
    list.append(element("dt", name), element("dd", [typeOf(property), property.description].filter(Boolean).join(". ")));
  }
  return list;
}

function operation(path, method, facts) {
  const section = element("section");
  section.append(element("h2", `${method.toUpperCase()} ${path}`), element("p", facts.description || facts.summary));
  const form = facts.requestBody && facts.requestBody.content["multipart/form-data"].schema;
  if (form) section.append(element("h3", "Fields of the form"), element("p", form.description), fields(form));
  section.append(element("h3", "Answers"));
  const answers = element("dl", "", "facts");
  for (const [status, answer] of Object.entries(facts.responses)) {
    const schema = answer.content && answer.content["application/json"] && answer.content["application/json"].schema;
    const text = schema && Object.keys(schema).length ? `${answer.description} (${typeOf(schema)})` : answer.description;
    answers.append(element("dt", status), element("dd", text));
  }
  section.append(answers);
  return section;
}

const main = document.getElementById("operations");
const answer = await fetch("api/openapi.json", { headers });
if (answer.ok) {
  const api = await answer.json();
  document.getElementById("lead").textContent = `${api.info.title}. ${api.info.description}`;
  main.replaceChildren();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, facts] of Object.entries(methods)) main.append(operation(path, method, facts));
  }
  const section = element("section");
  section.append(element("h2", "Types"));
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    section.append(element("h3", name), element("p", schema.description || ""), fields(schema));
  }
  main.append(section);
} else {
  const message = answer.status === 401 ? "This service needs its token: enter it on the page first." : "The description cannot be loaded.";
  main.replaceChildren(element("p", message, "problem"));
}
