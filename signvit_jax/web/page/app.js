"use strict";
// The page of `signvit serve`. It sends requests only to its own server.

const LOW_CONFIDENCE = 0.5; // confidence below which a text is marked
const MIN_GAP_SECONDS = 1.0; // shortest pause between texts that is shown, in seconds

const $ = (id) => document.getElementById(id);
let model = null;
let token = readToken();

function readToken() {
  const tokenInAddress = new URLSearchParams(location.hash.slice(1)).get("token");
  if (tokenInAddress) {
    sessionStorage.setItem("token", tokenInAddress);
    history.replaceState(null, "", location.pathname);
  }
  return tokenInAddress || sessionStorage.getItem("token") || "";
}

function headers(more = {}) {
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

// An error that the server answered.
class RequestRefused extends Error {
  constructor(error, status) {
    super(error.message);
    this.code = error.code;
    this.place = error.place;
    this.status = status;
  }
}

// A text whose part of the recording is no longer in the memory of the page.
class RecordingLost extends Error {}

async function request(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers(options.headers) });
  if (!answer.ok) {
    let error = { code: "fault", message: `The server answered with ${answer.status}.` };
    try { error = (await answer.json()).error; } catch { /* the answer is not JSON of this server */ }
    throw new RequestRefused(error, answer.status);
  }
  return answer;
}

function reason(error) {
  if (error instanceof RequestRefused || error instanceof RecordingLost) return error.message;
  return "The server does not answer. Is signvit serve running? The page tries again by itself.";
}

// ---- the server and its model -------------------------------------------------------------------

async function connect() {
  try {
    model = await (await request("v1/model")).json();
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
  const unknown = "not stated by the author of the model";
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

// The translation of the newest video: {file, segments, seconds, stop, isOver}. Functions get the job
// that they work for, and do nothing if it is no longer the current one.
let currentJob = null;

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
$("cancel").addEventListener("click", () => currentJob?.stop.abort());

async function translate(file) {
  currentJob?.stop.abort();
  currentJob = { file, segments: [], seconds: null, stop: new AbortController() };
  const job = currentJob;
  $("video-error").textContent = "";
  $("save-state").textContent = "";
  $("transcript").replaceChildren();
  $("warnings").replaceChildren();
  showPlayer(file);
  if (model && file.size > model.max_upload_bytes) {
    const limit = Math.floor(model.max_upload_bytes / 2 ** 20);
    fail(job, `${file.name} is too large: ${(file.size / 2 ** 20).toFixed(1)} MiB; allowed: at most ${limit} MiB.`);
    return;
  }
  $("progress-row").hidden = false;
  $("progress").removeAttribute("value");
  $("state").textContent = `Sending ${file.name} …`;
  try {
    const answer = await request("v1/translate", {
      method: "POST",
      body: file,
      headers: { Accept: "application/x-ndjson", "Content-Type": "application/octet-stream" },
      signal: job.stop.signal,
    });
    await readLines(answer.body, (event) => handleEvent(job, event));
    if (!job.isOver) throw new TypeError("the answer ended early");
  } catch (error) {
    if (job.stop.signal.aborted) {
      if (currentJob === job) {
        $("progress-row").hidden = true;
        $("state").textContent = "Cancelled.";
      }
    } else {
      fail(job, reason(error));
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

function handleEvent(job, event) {
  if (currentJob !== job) return;
  if (event.event === "queued") {
    $("state").textContent = `Waiting: number ${event.place} in the queue.`;
  } else if (event.event === "started") {
    job.seconds = event.seconds;
    $("state").textContent = "Translating …";
  } else if (event.event === "segment") {
    job.segments.push(event);
    showTranscript(job);
  } else if (event.event === "progress") {
    if (job.seconds) $("progress").value = Math.min(event.seconds / job.seconds, 1);
    $("state").textContent = `Translated up to ${clock(event.seconds)}${job.seconds ? ` of ${clock(job.seconds)}` : ""}.`;
  } else if (event.event === "error") {
    throw new RequestRefused(event.error, 200);
  } else if (event.event === "done") {
    job.isOver = true;
    job.seconds = event.seconds;
    job.segments = event.segments;
    $("progress-row").hidden = true;
    showTranscript(job);
    const count = job.segments.length;
    $("state").textContent = count
      ? `Done: ${count} ${count === 1 ? "text" : "texts"} in ${clock(event.seconds)}.`
      : "Done: the model detected no signs in this video.";
    for (const warning of event.warnings) $("warnings").append(element("p", "note", `Note: ${warning}`));
    updateTrack(job);
  }
}

function fail(job, message) {
  if (currentJob !== job) return;
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
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const minutes = Math.floor(tenths / 600);
  return `${minutes}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}

function showTranscript(job) {
  const list = $("transcript");
  const items = [];
  let end = 0;
  for (const segment of job.segments) {
    if (segment.start - end >= MIN_GAP_SECONDS) items.push(gapItem(end, segment.start));
    items.push(textItem(job, segment));
    end = Math.max(end, segment.end);
  }
  if (job.isOver && job.seconds - end >= MIN_GAP_SECONDS) items.push(gapItem(end, job.seconds));
  list.replaceChildren(...items);
}

function gapItem(start, end) {
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

function textItem(job, segment) {
  const item = element("li");
  item.dataset.start = segment.start;
  item.dataset.end = segment.end;
  const text = textField(segment, () => updateTrack(job));
  const confidence = element("span", "sure", percent(segment.confidence));
  confidence.title = "probability that the text is right";
  item.classList.toggle("low", segment.confidence !== null && segment.confidence < LOW_CONFIDENCE);
  item.append(seekButton(segment.start), text, confidence);
  if (model?.examples) {
    const part = async () => ({ video: job.file, start: segment.start, end: segment.end });
    item.append(exampleButton(part, text, $("save-state")));
  }
  return item;
}

function percent(confidence) {
  if (confidence === null || confidence === undefined) return "";
  const low = confidence < LOW_CONFIDENCE;
  return `${Math.round(confidence * 100)}\u00a0%${low ? "\u00a0?" : ""}`;
}

// Return a button that saves a text and its part of a video as a training example. `part()` returns a
// promise of {video, start, end}: the video and times in it, in seconds. `state` shows the result.
function exampleButton(part, text, state) {
  const button = element("button", "example", "Save as a training example");
  button.type = "button";
  button.title = `Saves this part of the video and its text in ${model.examples}`;
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const { video, start, end } = await part();
      const form = new FormData();
      form.append("text", text.value);
      form.append("start", start);
      form.append("end", end);
      form.append("video", video);
      const saved = await (await request("v1/examples", { method: "POST", body: form })).json();
      state.textContent = `Saved ${saved.saved} and its text in ${model.examples}.`;
      button.textContent = "Saved";
    } catch (error) {
      state.textContent = `Not saved: ${reason(error)}`;
      button.disabled = false;
    }
  });
  return button;
}

async function captionFile(segments, seconds, format) {
  const answer = await request(`v1/captions?format=${format}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ segments, seconds }),
  });
  return answer.text();
}

async function updateTrack(job) {
  try {
    const text = await captionFile(job.segments, job.seconds, "vtt");
    if (currentJob !== job) return;
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

function download(text, name) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

for (const button of document.querySelectorAll("[data-format]")) {
  button.addEventListener("click", async () => {
    if (!currentJob) return;
    const { format } = button.dataset;
    try {
      const name = `${currentJob.file.name.replace(/\.[^.]*$/, "")}.${format}`;
      download(await captionFile(currentJob.segments, currentJob.seconds, format), name);
      $("save-state").textContent = `Saved ${name}.`;
    } catch (error) {
      $("save-state").textContent = `Not saved: ${reason(error)}`;
    }
  });
}

watch();
