// The page that speaks: streams PCM from /v1/audio/speech and plays each piece when the one before it ends.
"use strict";

const RATE = 24000; // samples a second
const SOON = 0.06; // seconds before the first sample is played, so that the next piece may come late by as much
const $ = (id) => document.getElementById(id);
let clip = null; // a recorded one
let live = null; // what is being spoken
let spoken = []; // Float32Arrays of the last utterance

function body(format) {
  const told = { input: $("text").value, voice: $("voice").value || "default", response_format: format };
  if (Number($("speed").value) !== 1) told.speed = Number($("speed").value);
  if ($("seed").value !== "") told.seed = Number($("seed").value);
  return told;
}

function showCurl() {
  const quoted = JSON.stringify(body("mp3")).replaceAll("'", "'\\''");
  const url = new URL("v1/audio/speech", document.baseURI).href;
  const key = $("key").value ? ` -H "authorization: Bearer $KEY"` : "";
  $("curl").textContent = `curl -N ${url}${key} -H 'content-type: application/json' -d '${quoted}' -o speech.mp3`;
}

function say(where, text, wrong = false) {
  where.textContent = text;
  where.classList.toggle("wrong", wrong);
}

// A request with the key, if one is asked for.
async function ask(path, given = {}) {
  const key = $("key").value;
  const answer = await fetch(path, { ...given, headers: { ...given.headers, ...(key && { authorization: `Bearer ${key}` }) } });
  if (answer.status === 401) $("keyed").hidden = false;
  return answer;
}

async function refusal(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

function draw() {
  const canvas = $("wave"), scale = window.devicePixelRatio || 1;
  const width = (canvas.width = canvas.clientWidth * scale), height = (canvas.height = canvas.clientHeight * scale);
  const pen = canvas.getContext("2d"), total = spoken.reduce((sum, part) => sum + part.length, 0);
  if (!total) return;
  pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--wave");
  const peaks = new Float32Array(width);
  let at = 0;
  for (const part of spoken)
    for (const sample of part) {
      const column = Math.floor((at++ * width) / total);
      peaks[column] = Math.max(peaks[column], Math.abs(sample));
    }
  peaks.forEach((peak, column) => pen.fillRect(column, (height * (1 - peak)) / 2, 1, Math.max(1, height * peak)));
}

// Whole samples out of bytes that may end within one.
function samplesOf(kept, bytes) {
  const all = new Uint8Array(kept.length + bytes.length);
  all.set(kept);
  all.set(bytes, kept.length);
  const count = all.length >> 1, view = new DataView(all.buffer), samples = new Float32Array(count);
  for (let i = 0; i < count; i++) samples[i] = view.getInt16(2 * i, true) / 32768;
  return [samples, all.slice(2 * count)];
}

function play(context, samples, when) {
  const buffer = context.createBuffer(1, samples.length, RATE), source = context.createBufferSource();
  buffer.copyToChannel(samples, 0);
  source.buffer = buffer;
  source.connect(context.destination);
  const start = Math.max(when, context.currentTime + SOON);
  source.start(start);
  return start + buffer.duration;
}

async function speak() {
  stop();
  const own = (live = { cancel: new AbortController(), context: new AudioContext({ sampleRate: RATE }) });
  spoken = [];
  $("stop").disabled = false;
  $("save").disabled = true;
  for (const id of ["first", "length", "factor", "used"]) $(id).textContent = "–";
  say($("status"), "Speaking …");
  const begin = performance.now();
  let kept = new Uint8Array(0), until = 0, count = 0;
  try {
    const answer = await ask("v1/audio/speech", {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body("pcm")),
      signal: own.cancel.signal,
    });
    if (!answer.ok) throw new Error(await refusal(answer));
    $("used").textContent = answer.headers.get("x-seed") ?? "–";
    for (const reader = answer.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      let samples;
      [samples, kept] = samplesOf(kept, value);
      if (!samples.length) continue;
      if (!count) $("first").textContent = `${Math.round(performance.now() - begin)} ms`;
      count += samples.length;
      spoken.push(samples);
      until = play(own.context, samples, until);
      $("length").textContent = `${(count / RATE).toFixed(2)} s`;
      $("factor").textContent = ((performance.now() - begin) / 1000 / (count / RATE)).toFixed(3);
      draw();
    }
    $("save").disabled = !count;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, 1000 * (until - own.context.currentTime))));
    if (live === own) say($("status"), "Done.");
  } catch (error) {
    if (live === own) say($("status"), error.message, true);
  } finally {
    if (live === own) stop();
  }
}

function stop() {
  if (!live) return;
  live.cancel.abort();
  live.context.close();
  live = null;
  $("stop").disabled = true;
}

// 16-bit mono WAV of Float32Arrays.
function wav(parts, rate) {
  const count = parts.reduce((sum, part) => sum + part.length, 0), view = new DataView(new ArrayBuffer(44 + 2 * count));
  const word = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  word(0, "RIFF"), view.setUint32(4, 36 + 2 * count, true), word(8, "WAVEfmt "), view.setUint32(16, 16, true);
  view.setUint16(20, 1, true), view.setUint16(22, 1, true), view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true), view.setUint16(32, 2, true), view.setUint16(34, 16, true);
  word(36, "data"), view.setUint32(40, 2 * count, true);
  let at = 44;
  for (const part of parts)
    for (const sample of part) view.setInt16(at, 32767 * Math.max(-1, Math.min(1, sample)), true), (at += 2);
  return new Blob([view], { type: "audio/wav" });
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(wav(spoken, RATE));
  link.download = "speech.wav";
  link.click();
  URL.revokeObjectURL(link.href);
}

async function record() {
  if (clip?.end) return clip.end();
  try {
    const input = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, noiseSuppression: false } });
    const context = new AudioContext(), tap = context.createScriptProcessor(4096, 1, 1), parts = [];
    tap.onaudioprocess = (event) => {
      parts.push(event.inputBuffer.getChannelData(0).slice());
      say($("told"), `Recording, ${((parts.length * 4096) / context.sampleRate).toFixed(1)} s …`);
    };
    context.createMediaStreamSource(input).connect(tap);
    tap.connect(context.destination);
    $("record").textContent = "End recording";
    clip = {
      end() {
        tap.onaudioprocess = null; // what is still queued would say that it records
        input.getTracks().forEach((track) => track.stop());
        context.close();
        clip = { blob: wav(parts, context.sampleRate) };
        $("record").textContent = "Record";
        say($("told"), "Recorded. Give it a name and add it.");
      },
    };
  } catch (error) {
    say($("told"), `No microphone: ${error.message}`, true);
  }
}

async function upload() {
  const given = $("file").files[0] ?? clip?.blob;
  if (!given || !$("name").value) return say($("told"), "Choose or record a clip, and name the voice.", true);
  const form = new FormData();
  form.append("file", given, given.name ?? "clip.wav");
  form.append("name", $("name").value);
  form.append("consent", $("consent").checked);
  say($("told"), "Listening to the clip …");
  const answer = await ask("v1/voices", { method: "POST", body: form });
  if (!answer.ok) return say($("told"), await refusal(answer), true);
  const made = await answer.json();
  await listVoices(made.id);
  say($("told"), `${made.name} is in the list of voices.`);
}

async function listVoices(chosen = "default") {
  const answer = await ask("v1/voices");
  if (!answer.ok) throw new Error(await refusal(answer));
  const { data } = await answer.json();
  $("voice").replaceChildren(...data.map(({ id, name }) => new Option(name, id, false, id === chosen)));
  showCurl();
}

async function begin() {
  $("form").addEventListener("submit", (event) => (event.preventDefault(), speak()));
  $("form").addEventListener("input", showCurl);
  $("stop").addEventListener("click", () => (stop(), say($("status"), "Stopped.")));
  $("save").addEventListener("click", save);
  $("record").addEventListener("click", record);
  $("upload").addEventListener("click", upload);
  $("copy").addEventListener("click", () => navigator.clipboard.writeText($("curl").textContent));
  $("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) speak();
  });
  window.addEventListener("resize", draw);
  $("key").value = sessionStorage.getItem("key") ?? "";
  $("key").addEventListener("change", () => (sessionStorage.setItem("key", $("key").value), meet()));
  showCurl();
  await meet();
}

// Which model and which voices are served.
async function meet() {
  try {
    const answer = await ask("v1/models");
    if (!answer.ok) throw new Error(await refusal(answer));
    const model = (await answer.json()).data[0];
    $("model").textContent = `${model.id} on ${model.stages.t3.device}. ${model.note ?? ""}`;
    $("clip").textContent = `A clip of one speaker, without other sounds. ${model.clip.min_s} to ${model.clip.max_s} seconds; wav, flac, mp3, ogg, m4a or webm.`;
    await listVoices();
    say($("status"), "Ready.");
  } catch (error) {
    say($("status"), error.message, true);
  }
}

begin();
