// The page: text in, translations out. Whatever is shown is set as text, never as markup.

import { Translator } from "./translator.js";

const MOST_BEAMS = 5;
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** A table of weights: a row for each target token, a column for each source token. */
function drawMap({ source, target, attention }) {
  const table = element("table", "");
  const head = table.createTHead().insertRow();
  head.append(element("td", ""), ...source.map((token) => element("th", token, { scope: "col" })));
  const body = table.createTBody();
  target.forEach((token, i) => {
    const row = body.insertRow();
    row.append(element("th", token, { scope: "row" }));
    source.forEach((from, j) => {
      const weight = attention[i][j];
      const label = `${token.trim()} attends to ${from.trim()}: ${weight.toFixed(2)}`;
      const cell = element("td", "", { title: label });
      const svg = document.createElementNS(SVG, "svg");
      const box = document.createElementNS(SVG, "rect");
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", label);
      for (const side of ["width", "height"]) box.setAttribute(side, "100%");
      box.setAttribute("opacity", weight.toFixed(3));
      svg.append(box);
      cell.append(svg);
      row.append(cell);
    });
  });
  const frame = element("div", "", { class: "map", tabindex: "0" });
  frame.append(table);
  return frame;
}

async function translate(translator) {
  const lines = $("source").value.split("\n");
  const numBeams = Number($("beams").value);
  $("translate").disabled = true;
  $("target").replaceChildren();
  $("maps").replaceChildren();
  $("result").hidden = false;
  const start = performance.now();
  try {
    for (const [i, line] of lines.entries()) {
      if (lines.length > 1) say(`Translating line ${i + 1} of ${lines.length} …`);
      const found = await translator.translate(line, numBeams);
      $("target").append(element("p", found.text));
      if (found.attention.length) $("maps").append(drawMap(found));
    }
    say(`Translated in ${((performance.now() - start) / 1000).toFixed(1)} s.`);
  } catch (error) {
    say(`The translation failed: ${error.message}`, true);
  } finally {
    $("attention").hidden = $("maps").childElementCount === 0;
    $("translate").disabled = false;
  }
}

async function start() {
  const translator = await Translator.load(new URL("./model/", import.meta.url));
  const { settings } = translator;
  const name = (code) => {
    try {
      return new Intl.DisplayNames("en", { type: "language" }).of(code);
    } catch {
      return code;
    }
  };
  if (settings.source_lang && settings.target_lang) {
    document.title = `${name(settings.source_lang)} to ${name(settings.target_lang)}`;
    document.querySelector("h1").textContent = document.title;
    $("source").lang = settings.source_lang;
    $("target").lang = settings.target_lang;
  }
  const most = Math.max(MOST_BEAMS, settings.num_beams);
  for (let n = 1; n <= most; ++n) {
    const option = element("option", n === 1 ? "greedy" : `${n} beams`, { value: n });
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
  say("Ready.");
}

start().catch((error) => say(`The model cannot be loaded: ${error.message}`, true));
