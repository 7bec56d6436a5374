// web.js: the live page. It asks for a snapshot each second while it is seen, and writes what comes as text: never as
// markup (the page's policy forbids that anyway). The token stays in this tab's memory; nothing is stored.
"use strict";

const EVERY = 1000, PATIENCE = 15000;
const byId = (id) => document.getElementById(id);
let token = null, paused = false, timer = 0, last = null, packets = null, refused = [], asking = null;

// --- text ---

function make(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

// What could hide or reorder other text is written out, as in the terminal.
function plain(text) {
  return String(text ?? "").replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Cs}\p{Zl}\p{Zp}\p{M}]/gu,
    (one) => "\\u" + one.codePointAt(0).toString(16).padStart(4, "0"));
}

const number = (value) => value === null || value === undefined ? "-" :
  value >= 1e7 ? Math.round(value / 1e6).toLocaleString("en") + " M" :
  value >= 10 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);

function duration(seconds) {
  let rest = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]]) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count) parts.push(count + unit); else if (parts.length) break;
  }
  return parts.slice(0, 2).join("") || "0s";
}

function octets(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < 4) { value /= 1024; at += 1; }
  return (at ? value.toFixed(1) : value) + " " + units[at];
}

const moment = (time) => new Date(time * 1000).toLocaleString("sv");

// --- pictures ---

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function bar(part, near) {
  const made = svg("svg", { class: near ? "bar near" : "bar", viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  made.append(svg("rect", { class: "track", width: 100, height: 1 }), svg("rect", { width: Math.max(0, Math.min(100, 100 * part)), height: 1 }));
  return made;
}

function curve(values) {
  const shown = values.slice(-120), wide = 120, high = 30;
  const peak = Math.max(...shown, 1e-9);
  const made = svg("svg", { viewBox: `0 0 ${wide} ${high}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  if (shown.length > 1) {
    const from = wide - shown.length + 1;
    const line = shown.map((value, at) => `${from + at},${(high - 1 - (high - 2) * value / peak).toFixed(1)}`).join(" L");
    made.append(svg("path", { d: `M${from},${high} L${line} L${wide},${high} Z` }), svg("path", { d: `M${line}` }));
  }
  return made;
}

// --- the page ---

function figure(name, value, more, values) {
  const made = make("div");
  made.append(make("dt", name), make("dd", value, "value"), make("dd", more, "more"));
  if (values) { const picture = make("dd"); picture.append(curve(values)); made.append(picture); }
  return made;
}

// Rows are kept where their key stays, so that a button that has the focus keeps it.
function fill(table, rows, key, cells, empty) {
  const body = byId(table).tBodies[0];
  const there = new Map([...body.rows].filter((row) => row.dataset.key).map((row) => [row.dataset.key, row]));
  const wanted = rows.map((each) => {
    const name = key(each);
    const row = there.get(name) || make("tr");
    row.dataset.key = name;
    cells(each).forEach((cell, at) => {
      const before = row.cells[at];
      if (!before) row.append(cell);
      else if (!cell.classList.contains("acts") && !before.isEqualNode(cell)) before.replaceWith(cell);
    });
    return row;
  });
  if (!wanted.length) {
    const row = make("tr"), cell = make("td", empty, "quiet");
    cell.colSpan = 7;
    row.append(cell);
    wanted.push(row);
  }
  for (const row of [...body.rows]) if (!wanted.includes(row)) row.remove();
  wanted.forEach((row, at) => { if (body.rows[at] !== row) body.insertBefore(row, body.rows[at] || null); });
}

function head(text, sub) {
  const made = make("th", plain(text));
  made.scope = "row";
  if (sub) made.append(make("span", plain(sub), "sub"));
  return made;
}

function cell(content, kind) {
  const made = make("td", undefined, kind);
  made.append(content);
  return made;
}

function acts(address, verb) {
  const made = make("td", undefined, "acts");
  const button = (text, what, act) => {
    const one = make("button", text);
    one.type = "button";
    one.setAttribute("aria-label", `${text} ${what}`);
    one.addEventListener("click", act);
    made.append(one);
  };
  button("Why", plain(address), () => why(address));
  if (token) button(verb === "ban" ? "Ban" : "Release", plain(address), () => verb === "ban" ? ban(address) : release(address));
  return made;
}

function show(found) {
  last = found;
  const now = found.time;
  document.title = `${plain(found.host)}: ${number(found.active)} bans`;
  byId("host").textContent = plain(found.host);
  const mode = byId("mode"), enforcing = found.mode === "enforce";
  mode.textContent = !found.ready ? "starting" : enforcing ? "enforcing" : "watching only";
  mode.className = "badge " + (enforcing && found.ready ? "on" : "watch");
  byId("about").textContent = `${plain(found.action)}, up ${duration(now - found.started)}`;
  byId("clock").textContent = moment(now).slice(11);
  byId("version").textContent = `denyspam ${plain(found.version)}, process ${found.pid}. Times are this browser's.`;
  if (packets && found.firewall.packets !== null && now > packets[0]) {
    refused = [...refused, Math.max(0, found.firewall.packets - packets[1]) / (now - packets[0])].slice(-120);
  }
  if (found.firewall.packets !== null) packets = [now, found.firewall.packets];
  const rate = (values) => number(values.length ? values[values.length - 1] : null);
  const peak = (values) => values.length ? `peak ${number(Math.max(...values.slice(-120)))} in two minutes` : "a second, please";
  document.querySelector(".figures").replaceChildren(
    figure("Lines a second", rate(found.rates.lines), peak(found.rates.lines), found.rates.lines),
    figure("Offences a second", rate(found.rates.events), peak(found.rates.events), found.rates.events),
    figure("Packets refused", number(found.firewall.packets), found.firewall.packets === null ? "this action does not count them" : octets(found.firewall.bytes), refused),
    figure("Bans that hold", number(found.active), `${number(found.tracked)} addresses counted`, found.rates.bans));
  alerts(found.faults);
  fill("hot", found.hot, (row) => row.address, (row) => [
    head(row.address, row.kind && `${row.kind}, ${row.filter}`), cell(plain(row.policy)), cell(`${row.hits} of ${row.limit}`, "n"),
    cell(bar(row.hits / row.limit, row.hits / row.limit >= 0.75), "wide spare"), cell(duration(now - row.last), "n spare"),
    cell(duration(row.gone), "n"), acts(row.address, "ban")], "Nobody has an offence that still counts.");
  const states = { pending: "not yet in the kernel", withheld: "withheld", waiting: "withheld for a moment" };
  fill("bans", found.bans, (row) => `${row.address} ${row.ports}`, (row) => [
    head(row.address, [states[row.state], row.note].filter(Boolean).join(": ")), cell(plain(row.rule)), cell(String(row.hits || ""), "n"),
    cell(`${duration(now - row.since)} ago`, "n spare"), cell(duration(row.until - now), "n"),
    cell(bar((row.until - now) / (row.until - row.since)), "wide spare"), acts(row.address, "release")],
    byId("match").value.trim() ? "No ban matches." : "Nobody is banned.");
  byId("held").textContent = `${number(found.active)} hold` + (found.withheld ? `, ${number(found.withheld)} withheld` : "") +
    (found.bans.length < found.active ? `; the newest ${found.bans.length}${byId("match").value.trim() ? " that match" : ""} are shown.` : ".");
  const kinds = Object.entries(found.kinds), most = Math.max(1, ...kinds.map((each) => each[1]));
  fill("kinds", kinds, (each) => each[0], ([kind, count]) =>
    [head(kind), cell(bar(count / most), "wide"), cell(number(count), "n")], "None yet.");
  fill("logs", found.logs, (each) => each.path, (each) => [
    head(each.path, `${number(each.lines)} lines, ${number(each.events)} events`),
    cell(!each.present ? make("span", "not there", "warn") : each.behind ? make("span", `behind by ${duration(now - each.clock)}`, "warn") : "up to date", "n")], "None.");
  const fire = found.firewall;
  fill("firewall", [...(fire.sets || []).filter((each) => each.packets).map((each) =>
    [`IPv${each.version} /${each.width}, port ${each.ports.join(" ") || "any"}`, `${number(each.packets)} packets`]),
    ["Sessions ended", number(fire.sessions)], ["Bans put back", number(fire.repairs)], ["Orders waiting", number(fire.waiting)]],
    (each) => each[0], (each) => [head(each[0]), cell(each[1], "n")], "");
  byId("enter").hidden = !found.may.act || token !== null;
  byId("new").hidden = token === null;
  document.body.classList.remove("off");
}

function alerts(texts) {
  const there = [...byId("alerts").children].map((each) => each.textContent).join("\n");
  if (there !== texts.map(plain).join("\n")) byId("alerts").replaceChildren(...texts.map((text) => make("p", plain(text))));
}

const tell = (text) => { byId("told").textContent = plain(text); };

// --- asking ---

async function ask(path, body) {
  const request = { headers: {}, signal: AbortSignal.timeout(PATIENCE) };
  if (token) request.headers.Authorization = `Bearer ${token}`;
  if (body) Object.assign(request, { method: "POST", body: JSON.stringify(body) }), request.headers["Content-Type"] = "application/json";
  const answer = await fetch(path, request);
  const found = await answer.json();
  if (answer.status === 401) { token = null; redo(); throw new Error("401"); }
  if (!answer.ok) throw new Error(found.error || `the page answers ${answer.status}`);
  return found.ok;
}

async function look() {
  clearTimeout(timer);
  const match = byId("match").value.trim(), mine = asking = {};
  try {
    const found = await ask(`api/snapshot?match=${encodeURIComponent(match)}`);
    if (mine === asking && !paused) show(found);
  } catch (error) {
    if (mine !== asking) return;
    if (error.message === "401") { enter(); return; }
    document.body.classList.add("off");
    const since = last ? `no news for ${duration(Date.now() / 1000 - last.time)}, ` : "";
    alerts([`${since}trying again: ${error.name === "TypeError" ? "the page's server does not answer" : error.message}`]);
  }
  if (mine === asking && !paused && !document.hidden) timer = setTimeout(look, EVERY);
}

function redo() {
  for (const row of document.querySelectorAll("#hot tbody tr, #bans tbody tr")) row.remove();
  if (last) show(last);
}

// --- dialogs ---

function open(title, parts, yes, act) {
  const dialog = byId("dialog");
  byId("title").textContent = title;
  byId("body").replaceChildren(...parts);
  byId("yes").textContent = yes || "";
  byId("yes").hidden = !yes;
  dialog.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    try { await act(); dialog.close(); } catch (error) { tell(error.message === "401" ? "this is not the token" : error.message); dialog.close(); }
    look();
  };
  if (!dialog.open) dialog.showModal();
}

function field(label, value, kind) {
  const name = make("label", label), input = make("input");
  input.value = value;
  input.type = kind || "text";
  input.autocomplete = "off";
  input.id = name.htmlFor = "field" + label.length + label.charCodeAt(0);
  return [input, name];
}

async function why(address) {
  try {
    const found = await ask(`api/why?address=${encodeURIComponent(address)}`);
    const parts = [];
    for (const each of found.bans) parts.push(make("p", `Banned from port ${each.ports.join(" ") || "any"} by ${plain(each.rule)}, ${each.hits} hits, until ${moment(each.until)} (${duration(each.until - Date.now() / 1000)} left). ${plain(each.note)}`));
    for (const each of found.withheld) parts.push(make("p", `Withheld: ${plain(each.note)}`));
    if (!found.bans.length) parts.push(make("p", "Not banned."));
    if (found.sender) parts.push(make("p", plain(found.sender)));
    if (found.spared) parts.push(make("p", "It is never banned: loopback, an own address or in allow."));
    for (const each of found.graces) parts.push(make("p", `In grace until ${moment(each.until)}. ${plain(each.note)}`));
    for (const each of found.counts) parts.push(make("p", `${plain(each.policy)}: ${each.hits} hits now, the limit is ${each.limit}.`));
    const lines = [...found.lines, ...found.seen].map((each) => plain(each.text)).join("\n\n");
    if (lines) parts.push(make("pre", lines));
    const past = found.history.filter((each) => each.ended !== null);
    if (past.length) parts.push(make("h3", "Before"), ...past.slice(0, 20).map((each) =>
      make("p", `${moment(each.since)} ${plain(each.rule)} for ${duration(each.until - each.since)}, ${each.state} ${moment(each.ended)} ${plain(each.end_note)} ${plain(each.note)}`)));
    open(plain(address), parts);
  } catch (error) { tell(error.message); }
}

const LONG = { "1h": 3600, "1d": 86400, "7d": 604800, "30d": 2592000 };

function ban(address) {
  const [what, a] = field("Address or network", address || ""), [note, b] = field("Why (kept in the ledger)", "");
  const long = make("select"), c = make("label", "How long");
  long.id = c.htmlFor = "long";
  for (const name of Object.keys(LONG)) long.append(make("option", name));
  open("Ban", [a, what, c, long, b, note], "Ban", async () => {
    const done = await ask("api/ban", { address: what.value.trim(), seconds: LONG[long.value], note: note.value });
    tell([...done.banned.map((each) => `banned ${each.address}`), ...done.refused.map((each) => `${each.address} is not banned: ${each.reason}`),
      ...(done.fault ? [`the firewall refuses: ${done.fault}`] : [])].join("; "));
  });
}

function release(address) {
  const [note, a] = field("Why (kept in the ledger)", "");
  const grace = make("input"), b = make("label", " and let no policy ban it again for a day");
  grace.type = "checkbox";
  grace.className = "check";
  b.prepend(grace);
  open(`Release ${plain(address)}?`, [b, a, note], "Release", async () => {
    const done = await ask("api/release", { address, note: note.value, ...(grace.checked ? { grace: 86400 } : {}) });
    tell([...done.released.map((each) => `released ${each}`), ...done.missing.map((each) => `${each} was not banned`),
      ...done.still.map((each) => `${each.address} is still banned, and with it what lies in it`),
      ...(done.fault ? [`the firewall refuses: ${done.fault}`] : [])].join("; "));
  });
}

function enter() {
  const [what, label] = field("The token, from the file that denyspam web named at its start", "", "password");
  open("Unlock", [label, what], "Unlock", async () => {
    token = what.value.trim();
    await ask("api/token", {});
    redo();
    tell("bans and releases are unlocked in this tab, until it is closed or loaded anew");
  });
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Go on" : "Pause";
  if (!paused) look();
});
byId("no").addEventListener("click", () => byId("dialog").close());
byId("enter").addEventListener("click", enter);
byId("new").addEventListener("click", () => ban(""));
byId("match").addEventListener("input", () => { if (!paused) look(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) look(); });
look();
