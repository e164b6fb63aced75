// The chat page. Everything customers write goes through textContent: their text is never markup.

const POLL_MS = 1000;
const TICKS = {
  accepted: ["🕓", "Aceptado"], sent: ["✓", "Enviado"], delivered: ["✓✓", "Entregado"], read: ["✓✓", "Leído"],
  played: ["✓✓", "Escuchado"], failed: ["⚠ no entregado", "No entregado"], undelivered: ["⚠ no entregado", "No entregado"],
  pending: ["🕓", "Pendiente"], queued: ["🕓", "En cola"], deleted: ["⌫", "Eliminado"], canceled: ["⌫", "Cancelado"],
};
const TYPES = {
  image: "Imagen", audio: "Audio", video: "Video", document: "Documento", sticker: "Sticker", location: "Ubicación",
  contacts: "Contacto", template: "Plantilla", interactive: "Opciones", reaction: "Reacción", button: "Botón",
  voice: "Nota de voz", contact: "Contacto", reply: "Opción elegida", poll: "Encuesta", system: "Aviso del sistema", unsupported: "Mensaje no admitido", order: "Pedido", edit: "Edición", revoke: "Eliminado",
};
const WORDS = {
  received: "recibido", queued: "en cola", sending: "enviando", sent: "enviado", delivered: "entregado", read: "leído",
  played: "escuchado", failed: "falló", skipped: "omitido", canceled: "cancelado", unknown: "sin confirmar",
  applied: "aplicado", dead: "descartado", new: "nuevo", info: "aviso", warning: "atención", critical: "grave",
  probable: "probable", confirmed: "confirmado", agent: "agente", manual: "a mano", staff: "personal",
};
const PROVIDERS = { cloud_api: "WhatsApp Cloud API", whapi: "Whapi", twilio: "Twilio" };
const $ = (id) => document.getElementById(id);

let open = fromHash();
let zone;
let shown = {};
let drawn = {};

// --- talking to the simulator

async function call(path, body) {
  const response = await fetch(`/control/${path}`, body && { method: "POST", body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function refresh() {
  const asked = open;
  const query = asked ? `?${new URLSearchParams(asked)}` : "";
  try {
    const view = await call(`view${query}`);
    if (asked !== open) return; // another chat was chosen meanwhile: its own answer comes
    shown = view;
    zone = view.business?.number?.timezone ?? "America/Bogota";
    draw();
  } catch (error) {
    say(`El simulador no responde: ${error.message}`);
  }
}

async function poll() {
  if (!document.hidden) await refresh();
  setTimeout(poll, POLL_MS);
}

async function write(text) {
  try {
    const echo = $("side").value === "business" && { echo: true };
    const { status, said } = await call("inbound", { ...open, text, ...echo, ...(name() && { name: name() }) });
    say(status === 200 ? "" : `El webhook respondió ${status ?? "nada"}; WhatsApp lo volverá a intentar. ${status ? "" : said}`);
  } catch (error) {
    say(error.message);
  }
  refresh();
}

async function advance(seconds) {
  try {
    await call("clock", { advance_seconds: seconds });
    say("");
  } catch (error) {
    say(error.message);
  }
  refresh();
}

function say(text) {
  $("notice").textContent = text;
}

// --- which chat

function fromHash() {
  const [number, from] = location.hash.slice(1).split("/").map(decodeURIComponent);
  return number && from ? { number, from } : null;
}

function choose(number, from) {
  location.hash = `${encodeURIComponent(number)}/${encodeURIComponent(from)}`;
}

function name() {
  return shown.contact?.name || $("name").value.trim();
}

// --- drawing; a part is drawn again only when what it shows has changed

function draw() {
  part("clock", [Math.floor(Date.parse(shown.clock) / 1000), shown.ahead_seconds, zone], drawClock);
  part("numbers", shown.numbers, drawNumbers);
  part("chats", [shown.chats, open, zone], drawChats);
  part("who", [shown.contact, shown.numbers, open, shown.clock.slice(0, 16)], drawWho);
  part("messages", [shown.messages, shown.typing, open, zone], drawMessages);
  part("business", [shown.business, shown.database_away, open, shown.clock.slice(0, 16)], drawBusiness);
}

function part(key, data, make) {
  const now = JSON.stringify(data ?? null);
  if (drawn[key] === now) return;
  drawn[key] = now;
  make();
}

function drawClock() {
  $("now").textContent = when(shown.clock, { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });
  $("now").dateTime = shown.clock;
  $("ahead").hidden = !shown.ahead_seconds;
  $("ahead").textContent = `adelantado ${span(shown.ahead_seconds)}`;
}

function drawNumbers() {
  const chosen = $("number").value || open?.number;
  const options = Object.entries(PROVIDERS).map(([provider, label]) => element("optgroup", { label },
    ...shown.numbers.filter((n) => n.provider === provider)
      .map((n) => element("option", { value: n.number }, `${n.name || "Número"} · +${n.phone}`)))).filter((group) => group.children.length);
  if (!options.length) options.push(element("option", { value: "" }, "No hay números conectados"));
  $("number").replaceChildren(...options);
  if (shown.numbers.some((n) => n.number === chosen)) $("number").value = chosen;
}

function drawChats() {
  $("chats").replaceChildren(...shown.chats.map((chat) => {
    const current = open?.number === chat.number && open?.from === chat.from;
    const button = element("button", { type: "button", "aria-current": current },
      face(chat.name || chat.from), element("b", {}, chat.name || `+${chat.from}`),
      element("time", { dateTime: chat.at }, when(chat.at, { hour: "2-digit", minute: "2-digit" })),
      element("span", { className: "last" }, `${numberName(chat.number)} · ${chat.text || TYPES[chat.type] || chat.type}`));
    button.onclick = () => choose(chat.number, chat.from);
    return element("li", {}, button);
  }));
}

function drawWho() {
  for (const field of [$("text"), $("write").querySelector("button"), $("side")]) field.disabled = !open;
  $("window").hidden = !open;
  if (!open) return;
  const { contact } = shown;
  const provider = shown.numbers.find((n) => n.number === open.number)?.provider ?? "cloud_api";
  $("side").hidden = provider === "twilio"; // which tells nothing of what is written on the phone
  if ($("side").hidden) $("side").value = "customer";
  $("whom").textContent = contact.name || `+${contact.phone ?? contact.bsuid}`;
  $("face").textContent = initials($("whom").textContent);
  $("via").textContent = `${contact.phone ? `+${contact.phone}` : contact.bsuid} escribe a ${numberName(open.number)} · ${PROVIDERS[provider]}`;
  if (!contact.has_window) return Object.assign($("window"), { className: "badge", textContent: "sin ventana" });
  const left = contact.window_until - Date.parse(shown.clock) / 1000;
  $("window").className = `badge ${contact.window_open ? "good" : "warn"}`;
  $("window").textContent = contact.window_open ? `ventana abierta ${left > 0 ? span(left) : ""}` : "ventana cerrada";
}

function drawMessages() {
  const list = $("messages");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
  const lines = [];
  let day, side;
  for (const message of shown.messages ?? []) {
    const date = when(message.at, { weekday: "long", day: "numeric", month: "long" });
    if (date !== day) lines.push(element("li", { className: "day" }, date));
    const turn = message.from !== side && date === day;
    [day, side] = [date, message.from];
    lines.push(bubble(message, turn));
  }
  if (!lines.length) lines.push(element("li", { className: "hint" }, open ? "Aún no hay mensajes. Escribe el primero." : "Elige un chat, o abre uno nuevo a la izquierda."));
  if (shown.typing) lines.push(element("li", { className: "business turn typing", "aria-label": "Escribiendo" }, ...[1, 2, 3].map(() => element("span"))));
  list.replaceChildren(...lines);
  if (atEnd || drawn.openChat !== JSON.stringify(open)) list.scrollTop = list.scrollHeight;
  drawn.openChat = JSON.stringify(open);
}

function bubble(message, turn) {
  const [mark, words] = TICKS[message.status] ?? ["", message.status];
  const kind = TYPES[message.type];
  return element("li", { className: `${message.from} ${turn ? "turn" : ""} ${["failed", "undelivered"].includes(message.status) ? "failed" : ""}` },
    ...(kind ? [element("span", { className: "kind" }, kind)] : []),
    ...(message.text ? [element("p", {}, message.text)] : []),
    element("span", { className: "meta" },
      element("time", { dateTime: message.at }, when(message.at, { hour: "2-digit", minute: "2-digit" })),
      element("span", { className: `ticks ${message.status}`, role: "img", "aria-label": words, title: words }, mark)));
}

function drawBusiness() {
  const side = shown.business;
  if (!open) return;
  if (shown.database_away || !side) return $("business").replaceChildren(empty("La base de datos no responde."));
  if (!side.number) return $("business").replaceChildren(empty("Este número no está conectado a ningún negocio."));
  $("business").replaceChildren(...[leadCard(side), chatCard(side), pendingCard(side), outboxCard(side), alertsCard(side), logsCard(side)].filter(Boolean));
}

function leadCard({ lead, number }) {
  const title = number.business ? `Ficha · ${number.business}` : "Ficha";
  if (!lead) return card(title, null, empty("Todavía no conoce a este cliente."));
  const labels = [lead.label1, lead.label2, lead.label3].filter(Boolean).map((label) => element("span", { className: "badge" }, label));
  return card(title, badge(lead.lead_status), element("p", { className: "big" }, lead.name || lead.user_name || `+${lead.phone ?? "sin teléfono"}`),
    ...(labels.length ? [element("div", { className: "labels" }, ...labels)] : []),
    facts([
      ["Usuario", lead.user_name], ["Prioridad", lead.priority], ["Próxima acción", lead.next_action],
      ["Fecha", moment(lead.next_action_at)], ["Última actividad", moment(lead.last_activity) ?? "sin anotar"],
      ["Tokens", lead.thread_token_count], ["No desea mensajes", moment(lead.opted_out_at)],
    ]));
}

function chatCard({ chat, conversation }) {
  if (!chat) return null;
  const attention = conversation?.requires_attention && badge("requiere atención", "bad");
  return card("Conversación", attention || badge(conversation?.status === "open" ? "abierta" : conversation ? "cerrada" : null, conversation?.status === "open" ? "good" : ""),
    facts([
      ["Agente", conversation?.agent], ["Etapa", conversation?.current_step], ["Mensajes", conversation?.message_count],
      ["Sin leer", chat.unread_count], ["Ventana de 24 h", until(chat.window_expires_at)], ["Entrada gratis", chat.free_entry_until && until(chat.free_entry_until)],
      ["Agente en pausa", future(chat.agent_paused_until) && moment(chat.agent_paused_until)],
      ["Bloqueo", chat.block_state !== "none" && inSpanish(chat.block_state)], ["Resumen", conversation?.summary],
    ]));
}

function pendingCard({ pending_activity: activity, pending_reply: reply }) {
  if (!activity && !reply) return null;
  return card("Pendiente", null, facts([
    ["Actividad por anotar", activity && moment(activity.last_activity_at)], ["Tokens por sumar", activity?.token_count],
    ["Respuesta en espera", reply && (reply.fragments === 1 ? "a 1 mensaje" : `a ${reply.fragments} mensajes`)],
    ["Intentos", reply?.attempts || null], ["Último error", reply?.last_error],
  ]));
}

function outboxCard({ outbox }) {
  if (!outbox?.length) return null;
  return card("Salida", null, rows(outbox.map((sent) => [sent.content || "—", badge(sent.status, tone(sent.status)),
    [inSpanish(sent.source), sent.verdict, sent.reason, sent.error_code, sent.error].filter(Boolean).join(" · ")])));
}

function alertsCard({ alerts }) {
  if (!alerts?.length) return null;
  return card("Alertas", badge(String(alerts.length), "bad"), rows(alerts.map((alert) => [alert.kind, badge(alert.severity, "warn"), alert.message ?? alert.subject ?? ""])));
}

function logsCard({ logs }) {
  if (!logs?.length) return null;
  return card("Webhooks recibidos", null, rows(logs.map((log) => [`${clockTime(log.received_at)} · ${log.field ?? "?"}`, badge(log.status, tone(log.status)), log.error])));
}

// --- small parts

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const empty = (text) => element("p", { className: "empty" }, text);
const face = (text) => element("span", { className: "face", "aria-hidden": "true" }, initials(text));
const inSpanish = (word) => WORDS[word] ?? word;
const badge = (text, look = "") => text && element("span", { className: `badge ${look}` }, inSpanish(text));
const tone = (status) => ({ failed: "bad", dead: "bad", unknown: "warn", skipped: "warn", applied: "good", read: "good", delivered: "good", sent: "good" })[status] ?? "";
const numberName = (number) => shown.numbers?.find((n) => n.number === number)?.name || number;
const future = (at) => at && Date.parse(at) > Date.parse(shown.clock);

function card(title, mark, ...content) {
  return element("section", { className: "card" }, element("h3", {}, title, ...(mark ? [mark] : [])), ...content);
}

function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  return element("dl", {}, ...known.flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, String(value))]));
}

function rows(lines) {
  return element("ul", { className: "rows" }, ...lines.map(([text, mark, more]) =>
    element("li", {}, element("span", { className: "text", title: text }, text), ...(mark ? [mark] : []), ...(more ? [element("small", {}, more)] : []))));
}

function initials(text) {
  const words = text.replace("+", "").split(/\s+/).filter(Boolean);
  return words.slice(0, 2).map((word) => [...word][0]).join("").toUpperCase();
}

function when(at, parts) {
  return new Intl.DateTimeFormat("es-CO", { timeZone: zone, hourCycle: "h23", ...parts }).format(new Date(at));
}

function clockTime(at) {
  return when(at, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

function moment(at) {
  return at ? when(at, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" }) : null;
}

function until(at) {
  const left = (Date.parse(at) - Date.parse(shown.clock)) / 1000;
  return left > 0 ? `abierta ${span(left)}` : "cerrada";
}

function span(seconds) {
  const minutes = Math.max(Math.round(seconds / 60), 1);
  const [days, hours, rest] = [Math.floor(minutes / 1440), Math.floor(minutes / 60) % 24, minutes % 60];
  return [days && `${days} d`, hours && `${hours} h`, rest && `${rest} min`].filter(Boolean).join(" ");
}

function pane(which) {
  document.body.dataset.pane = which;
}

// --- what people do

addEventListener("hashchange", () => {
  open = fromHash();
  pane("chat");
  refresh().then(() => $("text").focus());
});
document.querySelector(".panes").onclick = (event) => event.target.dataset.pane && pane(event.target.dataset.pane);
document.querySelector(".jumps").onclick = (event) => event.target.dataset.seconds && advance(Number(event.target.dataset.seconds));
$("clock").onsubmit = (event) => {
  event.preventDefault();
  if ($("minutes").value) advance(60 * Number($("minutes").value));
  $("minutes").value = "";
};
$("from").oninput = () => {
  const known = [...$("people").options].find((option) => option.value === $("from").value);
  if (known) $("name").value = known.textContent;
};
$("open").onsubmit = (event) => {
  event.preventDefault();
  choose($("number").value, $("from").value.replace(/[\s()+-]/g, ""));
};
$("write").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || !open) return;
  $("text").value = "";
  write(text);
};
$("text").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("write").requestSubmit();
};

poll();
