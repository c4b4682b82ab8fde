"use strict";
// The page of `signvit serve`. It talks to its own server alone.

const LOW = 0.5; // confidence below which a text is marked
const GAP = 1.0; // seconds without text that are shown as a gap
const FRAMES_PER_SECOND = 12.5;
const SHORT_SIDE = 192; // pixels of the frames that are sent
const MAX_BUFFERED = 200000; // bytes that wait to be sent; further frames are passed over

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
  if (error instanceof Refusal) return error.message;
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

function line(mine, segment) {
  const item = element("li");
  item.dataset.start = segment.start;
  item.dataset.end = segment.end;
  const text = element("textarea");
  text.dir = "auto";
  text.rows = 1;
  text.value = segment.text;
  text.setAttribute("aria-label", `Text from ${clock(segment.start)} to ${clock(segment.end)}`);
  text.addEventListener("change", () => {
    segment.text = text.value;
    updateTrack(mine);
  });
  const sure = element("span", "sure", percent(segment.confidence));
  sure.title = "probability that the text is right";
  item.classList.toggle("low", segment.confidence !== null && segment.confidence < LOW);
  item.append(seekButton(segment.start), text, sure);
  if (model?.examples) item.append(exampleButton(mine, segment, text));
  return item;
}

function percent(confidence) {
  if (confidence === null || confidence === undefined) return "";
  const low = confidence < LOW;
  return `${Math.round(confidence * 100)}\u00a0%${low ? "\u00a0?" : ""}`;
}

function exampleButton(mine, segment, text) {
  const button = element("button", "example", "Save as a training example");
  button.type = "button";
  button.title = `Writes this part of the video and its text into ${model.examples}`;
  button.addEventListener("click", async () => {
    button.disabled = true;
    const form = new FormData();
    form.append("text", text.value);
    form.append("start", segment.start);
    form.append("end", segment.end);
    form.append("video", mine.file);
    try {
      const saved = await (await ask("v1/examples", { method: "POST", body: form })).json();
      $("save-state").textContent = `Saved ${saved.saved} and its text in ${model.examples}.`;
    } catch (error) {
      $("save-state").textContent = `Not saved: ${reason(error)}`;
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

// ---- the camera ---------------------------------------------------------------------------------

let live = null; // {stream, socket, timer, retry}
let liveSegments = [];

$("start").addEventListener("click", startCamera);
$("stop").addEventListener("click", stopCamera);

async function startCamera() {
  $("camera-error").textContent = "";
  if (!navigator.mediaDevices?.getUserMedia) {
    $("camera-error").textContent =
      "This browser gives no camera to this address. Open the page as http://localhost on the machine that runs it, or through a tunnel: ssh -L 8000:localhost:8000 HOST.";
    return;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { width: 640, height: 480, frameRate: 25 },
    });
  } catch (error) {
    const messages = {
      NotAllowedError: "The camera was not permitted. Allow it beside the address of this page, and start again.",
      NotFoundError: "There is no camera. Connect one, and start again.",
      NotReadableError: "The camera is in use by another program. Close that, and start again.",
    };
    $("camera-error").textContent = messages[error.name] ?? `The camera cannot be used: ${error.message}`;
    return;
  }
  live = { stream, socket: null, timer: null, isStopping: false, offset: 0, tries: 0 };
  liveSegments = [];
  $("final").replaceChildren();
  $("camera").srcObject = stream;
  $("camera").hidden = false;
  await $("camera").play();
  $("start").disabled = true;
  $("stop").disabled = false;
  $("stop").focus();
  openSocket(live);
}

function openSocket(mine) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const query = token ? `?token=${encodeURIComponent(token)}` : "";
  const base = location.pathname.replace(/[^/]*$/, "");
  const socket = new WebSocket(`${scheme}://${location.host}${base}v1/live${query}`);
  mine.socket = socket;
  mine.offset = liveSegments.length ? liveSegments[liveSegments.length - 1].end : 0;
  socket.addEventListener("message", (message) => onLive(mine, JSON.parse(message.data)));
  socket.addEventListener("close", (event) => onClose(mine, event));
}

function onLive(mine, event) {
  if (event.event === "ready") {
    mine.tries = 0;
    $("camera-state").textContent = "Live. Texts in italics may still change.";
    mine.timer = setInterval(() => sendFrame(mine), 1000 / FRAMES_PER_SECOND);
  } else if (event.event === "update") {
    $("partial").textContent = event.text || event.partial;
    for (const segment of event.final) showFinal(mine, segment);
    if (event.final.length) $("partial").textContent = "";
    mine.latency = event.latency;
    $("camera").dataset.dropped = event.dropped;
    const lost = event.dropped ? ` ${event.dropped} frames were not read.` : "";
    const state = `Live. Texts in italics may still change.${lost}`;
    if (!mine.isStopping && $("camera-state").textContent !== state) $("camera-state").textContent = state;
  } else if (event.event === "error") {
    mine.error = event.error;
    $("camera-error").textContent = event.error.message;
  }
}

function showFinal(mine, segment) {
  const shifted = { ...segment, start: segment.start + mine.offset, end: segment.end + mine.offset };
  liveSegments.push(shifted);
  const row = element("span", segment.confidence !== null && segment.confidence < LOW ? "low" : "");
  row.dir = "auto";
  row.append(segment.text, " ", element("small", "", percent(segment.confidence)));
  $("final").append(row);
  $("live-files").hidden = false;
}

function sendFrame(mine) {
  const { socket } = mine;
  const camera = $("camera");
  if (socket.readyState !== WebSocket.OPEN || socket.bufferedAmount > MAX_BUFFERED || !camera.videoWidth) return;
  const scale = Math.min(1, SHORT_SIDE / Math.min(camera.videoWidth, camera.videoHeight));
  const canvas = (mine.canvas ??= document.createElement("canvas"));
  canvas.width = Math.round(camera.videoWidth * scale);
  canvas.height = Math.round(camera.videoHeight * scale);
  // Mirrored only on the page: which hand is the right one matters.
  canvas.getContext("2d").drawImage(camera, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => {
    if (blob && socket.readyState === WebSocket.OPEN && !mine.isStopping) socket.send(blob);
  }, "image/jpeg", 0.85);
}

function onClose(mine) {
  clearInterval(mine.timer);
  if (live !== mine) return;
  const isRefused = mine.error && mine.error.code !== "stopping";
  if (mine.isStopping || isRefused) {
    endCamera(mine, mine.isStopping ? "Stopped." : "");
    return;
  }
  mine.error = null;
  mine.tries += 1;
  const seconds = Math.min(2 ** mine.tries / 2, 10);
  $("partial").textContent = "";
  $("camera-state").textContent = "The connection is lost. The page tries again by itself.";
  mine.retry = setTimeout(() => openSocket(mine), 1000 * seconds);
}

function stopCamera() {
  if (!live) return;
  const mine = live;
  mine.isStopping = true;
  clearInterval(mine.timer);
  clearTimeout(mine.retry);
  if (mine.socket.readyState === WebSocket.OPEN) {
    $("camera-state").textContent = "Reading the rest …";
    mine.socket.send(JSON.stringify({ event: "end" }));
  } else {
    endCamera(mine, "Stopped.");
  }
}

function endCamera(mine, text) {
  for (const track of mine.stream.getTracks()) track.stop();
  $("camera").srcObject = null;
  $("camera").hidden = true;
  $("partial").textContent = "";
  $("camera-state").textContent = text;
  $("start").disabled = false;
  $("stop").disabled = true;
  $("start").focus();
  live = null;
}

for (const button of document.querySelectorAll("[data-live-format]")) {
  button.addEventListener("click", async () => {
    const format = button.dataset.liveFormat;
    try {
      save(await captions(liveSegments, null, format), `live.${format}`);
    } catch (error) {
      $("camera-error").textContent = reason(error);
    }
  });
}

watch();
