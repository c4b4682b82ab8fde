"use strict";
// The camera of the page: frames out, captions in, and a recording where training examples are asked
// for. app.js comes before it.

const FRAMES_PER_SECOND = 12.5;
const SHORT_SIDE = 192; // pixels of the frames that are sent
const MAX_BUFFERED = 200000; // bytes that wait to be sent; further frames are passed over

let live = null; // {stream, socket, timer, retry}
let liveSegments = [];
let recordings = []; // {recorder, chunks, began, ended}, at most two

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
  recordings = [];
  $("final").replaceChildren();
  $("recorded").replaceChildren();
  $("recorded-part").hidden = true;
  $("camera-save-state").textContent = "";
  $("camera").srcObject = stream;
  $("camera").hidden = false;
  await $("camera").play();
  $("start").disabled = true;
  $("stop").disabled = false;
  $("stop").focus();
  const mine = live;
  if (model?.examples && $("keep").checked) await record(mine); // before the first frame is read
  if (live === mine && !mine.isStopping) openSocket(mine);
}

function openSocket(mine) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const query = token ? `?token=${encodeURIComponent(token)}` : "";
  const base = location.pathname.replace(/[^/]*$/, "");
  const socket = new WebSocket(`${scheme}://${location.host}${base}v1/live${query}`);
  mine.socket = socket;
  mine.began = null;
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
  const later = (part) => ({ ...part, start: part.start + mine.offset, end: part.end + mine.offset });
  const shifted = { ...later(segment), words: segment.words.map(later) };
  liveSegments.push(shifted);
  if (recordings.length) showRecorded(shifted, mine.began + 1000 * segment.start);
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
  mine.began ??= performance.now(); // the server counts seconds from the first frame on
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
  if (mine.socket?.readyState === WebSocket.OPEN) {
    $("camera-state").textContent = "Reading the rest …";
    mine.socket.send(JSON.stringify({ event: "end" }));
  } else {
    endCamera(mine, "Stopped.");
  }
}

function endCamera(mine, text) {
  for (const { recorder } of recordings) if (recorder.state !== "inactive") recorder.stop();
  clearTimeout(mine.nextRecording);
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

// ---- training examples of the camera -------------------------------------------------------------

// The page holds the last minutes in two recordings, each of which begins before the other one ends:
// a text of up to EXAMPLE_SECONDS is in one of them.
const RECORDING_SECONDS = 300;
const EXAMPLE_SECONDS = 60;
const RECORDER_SECONDS = 1.5;
const MARGIN = 0.3; // seconds before and after a text, for what the two clocks differ

// Begin a recording; resolves once it runs.
async function record(mine) {
  let recorder;
  try {
    recorder = new MediaRecorder(mine.stream, { videoBitsPerSecond: 2000000 });
  } catch (error) {
    $("camera-error").textContent = `This browser cannot record, so texts cannot be saved: ${error.message}`;
    return;
  }
  const recording = { recorder, chunks: [], began: null, ended: null };
  const started = new Promise((resolve) => {
    recorder.addEventListener("start", () => { recording.began = performance.now(); resolve(); });
    recorder.addEventListener("error", resolve);
  });
  recorder.addEventListener("stop", () => { recording.ended = performance.now(); });
  recorder.addEventListener("dataavailable", (event) => recording.chunks.push(event.data));
  recorder.start(1000);
  recordings = [...recordings.slice(-1), recording];
  const end = () => { if (recorder.state !== "inactive") recorder.stop(); };
  setTimeout(end, 1000 * RECORDING_SECONDS);
  mine.nextRecording = setTimeout(() => record(mine), 1000 * (RECORDING_SECONDS - EXAMPLE_SECONDS));
  await started;
}

function showRecorded(segment, at) {
  const item = element("li");
  const text = textField(segment, () => {});
  const seconds = segment.end - segment.start;
  const part = () => recordedPart(at, seconds);
  item.append(
    element("span", "at", clock(segment.start)),
    text,
    exampleButton(part, text, $("camera-save-state")),
  );
  $("recorded").append(item);
  $("recorded-part").hidden = false;
}

// The recording that has the `seconds` from `at` on, a time of performance.now().
async function recordedPart(at, seconds) {
  const recording = recordings.find(
    ({ began, ended }) => began !== null && began <= at + 500 && at + 1000 * seconds <= (ended ?? Infinity) + 500,
  );
  if (!recording) throw new Lost("the page keeps the last minutes of the camera, and this text is older.");
  // The recorder is a little behind the camera.
  const wait = at + 1000 * (seconds + MARGIN + RECORDER_SECONDS) - performance.now();
  if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
  await flushed(recording.recorder);
  const start = (at - recording.began) / 1000;
  return {
    video: new Blob(recording.chunks, { type: recording.recorder.mimeType }),
    start: Math.max(start - MARGIN, 0),
    end: start + seconds + MARGIN,
  };
}

// Wait until the recorder has given all that it has so far.
function flushed(recorder) {
  if (recorder.state === "inactive") return Promise.resolve();
  return new Promise((resolve) => {
    recorder.addEventListener("dataavailable", resolve, { once: true });
    recorder.requestData();
  });
}
