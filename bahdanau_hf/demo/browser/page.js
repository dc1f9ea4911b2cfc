// The page: text in, translations out. Whatever is shown is set as text, never as markup.

import { lightWords } from "./map.js";
import { Translator, looksForeign } from "./translator.js";
import { byWords } from "./words.js";

const MOST_BEAMS = 5;
const $ = (id) => document.getElementById(id);
const inChinese = /^zh\b/i.test(navigator.language);
let words = {};

/** A text of the page in the reader's language. */
function say(text, values = {}) {
  return (words[text] ?? text).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function show(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** A cell, or a step of the scale, as dark as its weight. */
function shade(made, weight) {
  made.style.setProperty("--w", weight.toFixed(3));
  return made;
}

/** How the words above the columns are written: as in Python's `directions`. */
function directions(tokens) {
  const isWide = (token) => /^[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Hang}\uff00-\uffef]+$/u.test(token);
  const isUpright = (token) => [...token].length === 1 || ([...token].length === 2 && isWide(token));
  if (tokens.every(isUpright)) return tokens.map(() => "upright");
  return tokens.map((token) => (isWide(token) ? "stacked" : "turned"));
}

/** The sentence, its translation, a row for each word of it, and how to read them. */
function drawMap(line, text, { source, target, weights }) {
  const map = element("div", "", { class: "alignment" });
  for (const [name, sentence] of [["source", line], ["translation", text]]) {
    const row = element("p", "");
    row.append(element("span", say(name), { class: "name" }), " ", element("span", sentence));
    map.append(row);
  }
  const table = element("table", "");
  const head = table.createTHead().insertRow();
  const axes = element("td", "", { class: "axes" });
  axes.append(say("source →"), element("br", ""), say("target ↓"));
  head.append(axes);
  const ways = directions(source);
  source.forEach((word, j) => {
    const heading = element("th", "", { scope: "col" });
    heading.append(element("span", word, { class: ways[j] }));
    head.append(heading);
  });
  const body = table.createTBody();
  body.className = "weights";
  target.forEach((word, i) => {
    const row = body.insertRow();
    row.append(element("th", word, { scope: "row", tabindex: "0" }));
    source.forEach((from, j) => {
      const weight = weights[i][j];
      const kind = weight >= 0.62 ? "hot" : weight >= 0.1 ? "number" : "";
      const title = `${word} ← ${from}: ${weight.toFixed(2)}`;
      row.append(shade(element("td", weight.toFixed(2), { class: kind, title }), weight));
    });
  });
  const scale = element("p", "0 ", { class: "legend" });
  for (let step = 0; step < 5; ++step) scale.append(shade(element("i", ""), step / 4));
  scale.append(` 1 ${say("attention weight")}`);
  const reading = say(
    "Each row is a word of the translation; its numbers say how much of the attention each word of the source had.",
  );
  map.append(table, scale, element("p", reading, { class: "legend" }));
  lightWords(map);
  return map;
}

async function translate(translator) {
  const lines = $("source").value.split("\n");
  $("target").replaceChildren();
  $("maps").replaceChildren();
  $("result").hidden = lines.every((line) => line.trim() === "");
  if ($("result").hidden) return show("");
  const numBeams = Number($("beams").value);
  const { settings } = translator;
  $("translate").disabled = true;
  const start = performance.now();
  try {
    for (const [i, line] of lines.entries()) {
      if (lines.length > 1) {
        show(say("Translating line {number} of {total} …", { number: i + 1, total: lines.length }));
      }
      const found = await translator.translate(line, numBeams);
      $("target").append(element("p", found.text));
      const note = (text, values) =>
        $("target").append(element("div", say(text, values), { class: "doubt" }));
      if (found.copied) note("There is no word in it that the model knows: it was copied.");
      else if (looksForeign(line, settings.source_lang)) {
        const language = languageName(settings.source_lang);
        note("This does not look like {language}: do not believe the translation.", { language });
      }
      if (found.truncated) {
        const limit = settings.max_source_length;
        note("The model reads at most {limit} tokens: the end was left out.", { limit });
      }
      if (found.attention.length) $("maps").append(drawMap(line, found.text, byWords(line, found)));
    }
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    show(say("Translated in {seconds} s.", { seconds }));
  } catch (error) {
    show(say("The translation failed: {reason}", { reason: error.message }), true);
  } finally {
    $("attention").hidden = $("maps").childElementCount === 0;
    $("translate").disabled = false;
  }
}

function languageName(code) {
  try {
    return new Intl.DisplayNames(inChinese ? "zh" : "en", { type: "language" }).of(code);
  } catch {
    return code;
  }
}

async function start() {
  if (inChinese) {
    words = await (await fetch("words.json")).json();
    document.documentElement.lang = "zh";
  }
  for (const part of document.querySelectorAll("[data-say]")) part.textContent = say(part.textContent);
  const translator = await Translator.load(new URL("./model/", import.meta.url));
  const { settings } = translator;
  if (settings.source_lang && settings.target_lang) {
    const [source, target] = [settings.source_lang, settings.target_lang].map(languageName);
    document.title = say("{source} → {target}", { source, target });
    document.querySelector("h1").textContent = document.title;
    $("source").lang = settings.source_lang;
    $("target").lang = settings.target_lang;
  }
  $("about").textContent = say(
    "A recurrent network with attention, {size}: very small beside today's chat models. It knows the kind of sentences that it was trained on; of others it makes fluent nonsense.",
    { size: say("{count} MB", { count: (translator.size / 1e6).toFixed(1) }) },
  );
  const most = Math.max(MOST_BEAMS, settings.num_beams);
  for (let n = 1; n <= most; ++n) {
    const text = n === 1 ? say("greedy") : say("{count} beams", { count: n });
    const option = element("option", text, { value: n });
    option.selected = n === settings.num_beams;
    $("beams").append(option);
  }
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!$("translate").disabled) translate(translator);
  });
  $("source").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
  });
  $("translate").disabled = false;
  show(say("Ready."));
}

start().catch((error) =>
  show(say("The model cannot be loaded: {reason}", { reason: error.message }), true),
);
