"use strict";
// The camera of the page: sends frames, shows live captions, and records if the user wants to save
// training examples. It uses functions of app.js, which is loaded first.

const FRAMES_PER_SECOND = 12.5;
const SHORT_SIDE = 192; // pixels of the frames that are sent, unless the camera has fewer
const MAX_BUFFERED = 200000; // bytes that wait to be sent; with more, frames are skipped

// The live session of the camera: {stream, socket, timer, retry, isStopping, offset, tries}. Functions
// get the session that they work for, because another one may have started meanwhile.
let currentSession = null;
let liveSegments = []; // final segments of all connections, in seconds since the start
let recordings = []; // {recorder, chunks, began, ended}, at most two; times in ms of performance.now()

$("start").addEventListener("click", startCamera);
$("stop").addEventListener("click", stopCamera);

async function startCamera() {
  $("camera-error").textContent = "";
  if (!navigator.mediaDevices?.getUserMedia) {
    $("camera-error").textContent =
      "This browser does not allow a camera on this address. Open the page as http://localhost on the machine that runs it, or through a tunnel: ssh -L 8000:localhost:8000 HOST.";
    return;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { width: 640, height: 480, frameRate: 25 },
    });
  } catch (error) {
    const messages = {
      NotAllowedError: "The camera was not permitted. Allow it next to the address of this page, and start again.",
      NotFoundError: "There is no camera. Connect one, and start again.",
      NotReadableError: "The camera is in use by another program. Close that, and start again.",
    };
    $("camera-error").textContent = messages[error.name] ?? `The camera cannot be used: ${error.message}`;
    return;
  }
  currentSession = { stream, socket: null, timer: null, isStopping: false, offset: 0, tries: 0 };
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
  const session = currentSession;
  if (model?.examples && $("keep").checked) await record(session); // before the first frame is read
  if (currentSession === session && !session.isStopping) openSocket(session);
}

function openSocket(session) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const query = token ? `?token=${encodeURIComponent(token)}` : "";
  const base = location.pathname.replace(/[^/]*$/, "");
  const socket = new WebSocket(`${scheme}://${location.host}${base}v1/live${query}`);
  session.socket = socket;
  session.began = null;
  session.offset = liveSegments.length ? liveSegments[liveSegments.length - 1].end : 0;
  socket.addEventListener("message", (message) => onLive(session, JSON.parse(message.data)));
  socket.addEventListener("close", (event) => onClose(session, event));
}

function onLive(session, event) {
  if (event.event === "ready") {
    session.tries = 0;
    $("camera-state").textContent = "Live. Texts in italics may still change.";
    session.timer = setInterval(() => sendFrame(session), 1000 / FRAMES_PER_SECOND);
  } else if (event.event === "update") {
    $("partial").textContent = event.text || event.partial;
    for (const segment of event.final) showFinal(session, segment);
    if (event.final.length) $("partial").textContent = "";
    session.latency = event.latency;
    $("camera").dataset.dropped = event.dropped;
    const lost = event.dropped ? ` ${event.dropped} frames were not read.` : "";
    const state = `Live. Texts in italics may still change.${lost}`;
    if (!session.isStopping && $("camera-state").textContent !== state) $("camera-state").textContent = state;
  } else if (event.event === "error") {
    session.error = event.error;
    $("camera-error").textContent = event.error.message;
  }
}

function showFinal(session, segment) {
  // Times of a connection begin at 0; those of the page continue after a lost connection.
  const { offset } = session;
  const shift = (part) => ({ ...part, start: part.start + offset, end: part.end + offset });
  const shifted = { ...shift(segment), words: segment.words.map(shift) };
  liveSegments.push(shifted);
  if (recordings.length) showRecorded(shifted, session.began + 1000 * segment.start);
  const isLow = segment.confidence !== null && segment.confidence < LOW_CONFIDENCE;
  const row = element("span", isLow ? "low" : "");
  row.dir = "auto";
  row.append(segment.text, " ", element("small", "", percent(segment.confidence)));
  $("final").append(row);
  $("live-files").hidden = false;
}

function sendFrame(session) {
  const { socket } = session;
  const camera = $("camera");
  if (socket.readyState !== WebSocket.OPEN || socket.bufferedAmount > MAX_BUFFERED || !camera.videoWidth) return;
  const scale = Math.min(1, SHORT_SIDE / Math.min(camera.videoWidth, camera.videoHeight));
  const canvas = (session.canvas ??= document.createElement("canvas"));
  canvas.width = Math.round(camera.videoWidth * scale);
  canvas.height = Math.round(camera.videoHeight * scale);
  session.began ??= performance.now(); // the server counts seconds from the first frame
  // The page mirrors the camera, but the model must tell the right hand from the left.
  canvas.getContext("2d").drawImage(camera, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => {
    if (blob && socket.readyState === WebSocket.OPEN && !session.isStopping) socket.send(blob);
  }, "image/jpeg", 0.85);
}

function onClose(session) {
  clearInterval(session.timer);
  if (currentSession === session) return;
  const isRefused = session.error && session.error.code !== "stopping";
  if (session.isStopping || isRefused) {
    endCamera(session, session.isStopping ? "Stopped." : "");
    return;
  }
  session.error = null;
  session.tries += 1;
  const seconds = Math.min(2 ** session.tries / 2, 10);
  $("partial").textContent = "";
  $("camera-state").textContent = "The connection is lost. The page tries again by itself.";
  session.retry = setTimeout(() => openSocket(session), 1000 * seconds);
}

function stopCamera() {
  if (!currentSession) return;
  const session = currentSession;
  session.isStopping = true;
  clearInterval(session.timer);
  clearTimeout(session.retry);
  if (session.socket?.readyState === WebSocket.OPEN) {
    $("camera-state").textContent = "Reading the rest …";
    session.socket.send(JSON.stringify({ event: "end" }));
  } else {
    endCamera(session, "Stopped.");
  }
}

function endCamera(session, text) {
  for (const { recorder } of recordings) if (recorder.state !== "inactive") recorder.stop();
  clearTimeout(session.nextRecording);
  for (const track of session.stream.getTracks()) track.stop();
  $("camera").srcObject = null;
  $("camera").hidden = true;
  $("partial").textContent = "";
  $("camera-state").textContent = text;
  $("start").disabled = false;
  $("stop").disabled = true;
  $("start").focus();
  currentSession = null;
}

for (const button of document.querySelectorAll("[data-live-format]")) {
  button.addEventListener("click", async () => {
    const format = button.dataset.liveFormat;
    try {
      download(await captionFile(liveSegments, null, format), `live.${format}`);
    } catch (error) {
      $("camera-error").textContent = reason(error);
    }
  });
}

// ---- training examples of the camera -------------------------------------------------------------

// The page keeps the last minutes in two recordings. They overlap by EXAMPLE_SECONDS, so that any text
// of up to that length is completely in one of them.
const RECORDING_SECONDS = 300;
const EXAMPLE_SECONDS = 60;
const TOLERANCE_MS = 500; // by which a part may exceed its recording
const RECORDER_SECONDS = 1.5; // how far the recorder may be behind the camera
const MARGIN = 0.3; // seconds before and after a text, because the clocks of server and page differ

// Start a recording; resolves once it runs.
async function record(session) {
  let recorder;
  try {
    recorder = new MediaRecorder(session.stream, { videoBitsPerSecond: 2000000 });
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
  session.nextRecording = setTimeout(() => record(session), 1000 * (RECORDING_SECONDS - EXAMPLE_SECONDS));
  await started;
}

// Show a text with a button that saves it. `began`: when its part began, in ms of performance.now().
function showRecorded(segment, began) {
  const item = element("li");
  const text = textField(segment, () => {});
  const seconds = segment.end - segment.start;
  const part = () => recordedPart(began, seconds);
  item.append(
    element("span", "at", clock(segment.start)),
    text,
    exampleButton(part, text, $("camera-save-state")),
  );
  $("recorded").append(item);
  $("recorded-part").hidden = false;
}

// Return {video, start, end} of the recording of a part that began at `partBegan`, in ms of
// performance.now(), and lasts `seconds`. Throws RecordingLost if no recording has the complete part.
async function recordedPart(partBegan, seconds) {
  const partEnded = partBegan + 1000 * seconds;
  const recording = recordings.find(({ began, ended }) =>
    began !== null &&
    began <= partBegan + TOLERANCE_MS &&
    partEnded <= (ended ?? Infinity) + TOLERANCE_MS,
  );
  if (!recording) throw new RecordingLost("the page keeps only the last minutes of the camera, and this text is older.");
  // Wait until the recorder has recorded the end of the text.
  const wait = partEnded + 1000 * (MARGIN + RECORDER_SECONDS) - performance.now();
  if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
  await flushed(recording.recorder);
  const start = (partBegan - recording.began) / 1000;
  return {
    video: new Blob(recording.chunks, { type: recording.recorder.mimeType }),
    start: Math.max(start - MARGIN, 0),
    end: start + seconds + MARGIN,
  };
}

// Wait until the recorder has handed over everything it has recorded so far.
function flushed(recorder) {
  if (recorder.state === "inactive") return Promise.resolve();
  return new Promise((resolve) => {
    recorder.addEventListener("dataavailable", resolve, { once: true });
    recorder.requestData();
  });
}
