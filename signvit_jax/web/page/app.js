"use strict";
// The page of `signvit serve`. It talks to its own server alone.

const LOW = 0.5; // confidence below which a text is marked
const GAP = 1.0; // seconds without text that are shown as a gap

const $ = (id) => document.getElementById(id);
let model = null;
let token = readToken();

function readToken() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found) {
    sessionStorage.setItem("token", found);
    history.replaceState(null, "", location.pathname);
  }
  return found || sessionStorage.getItem("token") || "";
}

function headers(more = {}) {
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

class Refusal extends Error {
  constructor(error, status) {
    super(error.message);
    this.code = error.code;
    this.place = error.place;
    this.status = status;
  }
}

class Lost extends Error {} // what the page itself cannot give any more

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers(options.headers) });
  if (!answer.ok) {
    let error = { code: "fault", message: `The server answered with ${answer.status}.` };
    try { error = (await answer.json()).error; } catch { /* not one of our answers */ }
    throw new Refusal(error, answer.status);
  }
  return answer;
}

function reason(error) {
  if (error instanceof Refusal || error instanceof Lost) return error.message;
  return "The server does not answer. Is signvit serve running? The page tries again by itself.";
}

// ---- the server and its model -------------------------------------------------------------------

async function connect() {
  try {
    model = await (await ask("v1/model")).json();
    $("token-form").hidden = true;
    showModel();
    setConnection("");
  } catch (error) {
    if (error.status === 401) {
      $("token-form").hidden = false;
      setConnection("");
      return;
    }
    setConnection(reason(error));
  }
}

function setConnection(text) {
  if ($("connection").textContent !== text) $("connection").textContent = text;
}

function showModel() {
  const unknown = "not stated by whoever made the model";
  const parts = [
    `Model ${model.name}, step ${model.step.toLocaleString()}, trained on ${model.data_set}`,
    `sign language: ${model.sign_language ?? unknown}`,
    `texts: ${model.text_language ?? unknown}`,
  ];
  $("model").textContent = `${parts.join("; ")}.`;
  const megabytes = Math.floor(model.max_upload_bytes / 2 ** 20);
  $("keep-row").hidden = !model.examples || !window.MediaRecorder;
  $("limits").textContent = `At most ${megabytes} MiB and ${model.max_minutes} minutes.`;
}

async function watch() {
  try {
    await fetch("healthz");
    if (model === null || $("connection").textContent) await connect();
  } catch {
    setConnection(reason(null));
  }
  setTimeout(watch, 2000);
}

$("token-form").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  sessionStorage.setItem("token", token);
  connect();
});

$("large").addEventListener("click", () => {
  const isLarge = document.documentElement.classList.toggle("large");
  $("large").setAttribute("aria-pressed", String(isLarge));
});

// ---- a video ------------------------------------------------------------------------------------

let job = null; // {file, segments, seconds, stop}

$("file").addEventListener("change", () => {
  if ($("file").files.length) translate($("file").files[0]);
});
for (const kind of ["dragenter", "dragover"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
  });
}
$("drop").addEventListener("drop", (event) => {
  if (event.dataTransfer.files.length) translate(event.dataTransfer.files[0]);
});
$("cancel").addEventListener("click", () => job?.stop.abort());

async function translate(file) {
  job?.stop.abort();
  job = { file, segments: [], seconds: null, stop: new AbortController() };
  const mine = job;
  $("video-error").textContent = "";
  $("save-state").textContent = "";
  $("transcript").replaceChildren();
  $("warnings").replaceChildren();
  showPlayer(file);
  if (model && file.size > model.max_upload_bytes) {
    const most = Math.floor(model.max_upload_bytes / 2 ** 20);
    fail(mine, `${file.name} is too large: ${(file.size / 2 ** 20).toFixed(1)} MiB; allowed: at most ${most} MiB.`);
    return;
  }
  $("progress-row").hidden = false;
  $("progress").removeAttribute("value");
  $("state").textContent = `Sending ${file.name} …`;
  try {
    const answer = await ask("v1/translate", {
      method: "POST",
      body: file,
      headers: { Accept: "application/x-ndjson", "Content-Type": "application/octet-stream" },
      signal: mine.stop.signal,
    });
    await readLines(answer.body, (event) => follow(mine, event));
    if (!mine.isOver) throw new TypeError("cut");
  } catch (error) {
    if (mine.stop.signal.aborted) {
      if (job === mine) {
        $("progress-row").hidden = true;
        $("state").textContent = "Cancelled.";
      }
    } else {
      fail(mine, reason(error));
    }
  }
}

async function readLines(body, onEvent) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) onEvent(JSON.parse(line));
  }
}

function follow(mine, event) {
  if (job !== mine) return;
  if (event.event === "queued") {
    $("state").textContent = `Waiting: number ${event.place} in the queue.`;
  } else if (event.event === "started") {
    mine.seconds = event.seconds;
    $("state").textContent = "Translating …";
  } else if (event.event === "segment") {
    mine.segments.push(event);
    showTranscript(mine);
  } else if (event.event === "progress") {
    if (mine.seconds) $("progress").value = Math.min(event.seconds / mine.seconds, 1);
    $("state").textContent = `Translated up to ${clock(event.seconds)}${mine.seconds ? ` of ${clock(mine.seconds)}` : ""}.`;
  } else if (event.event === "error") {
    throw new Refusal(event.error, 200);
  } else if (event.event === "done") {
    mine.isOver = true;
    mine.seconds = event.seconds;
    mine.segments = event.segments;
    $("progress-row").hidden = true;
    showTranscript(mine);
    const count = mine.segments.length;
    $("state").textContent = count
      ? `Done: ${count} ${count === 1 ? "text" : "texts"} in ${clock(event.seconds)}.`
      : "Done: as far as the model sees, nobody signs in this video.";
    for (const warning of event.warnings) $("warnings").append(element("p", "note", `Note: ${warning}`));
    updateTrack(mine);
  }
}

function fail(mine, message) {
  if (job !== mine) return;
  $("progress-row").hidden = true;
  $("state").textContent = "";
  $("video-error").textContent = message;
}

function showPlayer(file) {
  const player = $("player");
  if (player.src) URL.revokeObjectURL(player.src);
  player.src = URL.createObjectURL(file);
  player.replaceChildren();
  $("result").hidden = false;
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const minutes = Math.floor(tenths / 600);
  return `${minutes}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}

function showTranscript(mine) {
  const list = $("transcript");
  const items = [];
  let end = 0;
  for (const segment of mine.segments) {
    if (segment.start - end >= GAP) items.push(gap(end, segment.start));
    items.push(line(mine, segment));
    end = Math.max(end, segment.end);
  }
  if (mine.isOver && mine.seconds - end >= GAP) items.push(gap(end, mine.seconds));
  list.replaceChildren(...items);
}

function gap(start, end) {
  const item = element("li", "gap");
  item.append(seekButton(start), element("span", "", `Nobody signs until ${clock(end)}`));
  return item;
}

function seekButton(start) {
  const button = element("button", "at", clock(start));
  button.type = "button";
  button.setAttribute("aria-label", `Play from ${clock(start)}`);
  button.addEventListener("click", () => {
    $("player").currentTime = start;
    $("player").play().catch(() => {});
  });
  return button;
}

function textField(segment, onChange) {
  const text = element("textarea");
  text.dir = "auto";
  text.rows = 1;
  text.value = segment.text;
  text.setAttribute("aria-label", `Text from ${clock(segment.start)} to ${clock(segment.end)}`);
  text.addEventListener("change", () => {
    segment.text = text.value;
    onChange();
  });
  return text;
}

function line(mine, segment) {
  const item = element("li");
  item.dataset.start = segment.start;
  item.dataset.end = segment.end;
  const text = textField(segment, () => updateTrack(mine));
  const sure = element("span", "sure", percent(segment.confidence));
  sure.title = "probability that the text is right";
  item.classList.toggle("low", segment.confidence !== null && segment.confidence < LOW);
  item.append(seekButton(segment.start), text, sure);
  if (model?.examples) {
    const part = async () => ({ video: mine.file, start: segment.start, end: segment.end });
    item.append(exampleButton(part, text, $("save-state")));
  }
  return item;
}

function percent(confidence) {
  if (confidence === null || confidence === undefined) return "";
  const low = confidence < LOW;
  return `${Math.round(confidence * 100)}\u00a0%${low ? "\u00a0?" : ""}`;
}

// A button that saves a text and its part of a video. `part()` gives {video, start, end}, in seconds.
function exampleButton(part, text, state) {
  const button = element("button", "example", "Save as a training example");
  button.type = "button";
  button.title = `Writes this part of the video and its text into ${model.examples}`;
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const { video, start, end } = await part();
      const form = new FormData();
      form.append("text", text.value);
      form.append("start", start);
      form.append("end", end);
      form.append("video", video);
      const saved = await (await ask("v1/examples", { method: "POST", body: form })).json();
      state.textContent = `Saved ${saved.saved} and its text in ${model.examples}.`;
      button.textContent = "Saved";
    } catch (error) {
      state.textContent = `Not saved: ${reason(error)}`;
      button.disabled = false;
    }
  });
  return button;
}

async function captions(segments, seconds, format) {
  const answer = await ask(`v1/captions?format=${format}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ segments, seconds }),
  });
  return answer.text();
}

async function updateTrack(mine) {
  try {
    const text = await captions(mine.segments, mine.seconds, "vtt");
    if (job !== mine) return;
    const player = $("player");
    for (const old of player.querySelectorAll("track")) URL.revokeObjectURL(old.src);
    const track = element("track");
    track.kind = "captions";
    track.label = `Captions (a machine’s guess)`;
    track.default = true;
    track.src = URL.createObjectURL(new Blob([text], { type: "text/vtt" }));
    player.replaceChildren(track);
    track.track.mode = "showing";
  } catch (error) {
    $("save-state").textContent = reason(error);
  }
}

$("player").addEventListener("timeupdate", () => {
  const now = $("player").currentTime;
  for (const item of $("transcript").children) {
    const isNow = item.dataset.start <= now && now < item.dataset.end;
    item.classList.toggle("current", isNow);
  }
});

function save(text, name) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

for (const button of document.querySelectorAll("[data-format]")) {
  button.addEventListener("click", async () => {
    if (!job) return;
    const { format } = button.dataset;
    try {
      const name = `${job.file.name.replace(/\.[^.]*$/, "")}.${format}`;
      save(await captions(job.segments, job.seconds, format), name);
      $("save-state").textContent = `Saved ${name}.`;
    } catch (error) {
      $("save-state").textContent = `Not saved: ${reason(error)}`;
    }
  });
}

watch();
