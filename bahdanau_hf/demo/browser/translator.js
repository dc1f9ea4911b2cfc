// Translates in the browser with what `bahdanau-hf export` has written: the same cleaning of the
// text, the same tokens, the same greedy and beam search as in `examples/onnx_translate.py`.
//
// K beams, S source tokens, V target vocabulary; one sentence at a time.

import * as ort from "./lib/ort.wasm.bundle.min.mjs";
import { Tokenizer } from "./lib/tokenizers.min.mjs";

const FORMAT = 1;
const NEVER = -1e9; // the score of what must not be chosen
const CHARACTERS_PER_TOKEN = 256; // what is longer than so many a token is cut before encoding
const INVISIBLE =
  /[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\u{d800}-\u{dfff}]/gu;
const SPACES = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;
// What is no language: addresses and code.
const CODE =
  /(?:https?:\/\/|ftp:\/\/|www\.)[!#-;=?-~\u00a1-\u024f]+(?<![.,:;!?)'])|(?:(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+)|(?:`[^`]+`|<\/?[A-Za-z][^<>]*>|[$%]?\{[^{}]*\}|(?<!\w)\w*[A-Za-z]_\w+|(?<!\S)--?\w[\w-]*(?!\S)|(?<![\w.])[A-Za-z_][\w.]*(?:\([^()]*\)|::\w+|->\w+| ?[-+*\/|&:=!<>]?=+ ?[\w."']+);?)/g;
const NOT_TEXT = /^<(?:pad|bos|eos|unk|0x[0-9A-F]{2})>$/;
const SCRIPTS = { Hans: ["Han"], Hant: ["Han"], Jpan: ["Han", "Hiragana", "Katakana"], Kore: ["Hangul"] };
const LETTER = /\p{L}/u;
const UNPRINTABLE = /\p{C}|(?! )\p{Z}/u;

ort.env.wasm.numThreads = 1; // more would need headers that a plain file server does not send
ort.env.wasm.wasmPaths = {
  wasm: new URL("./lib/ort-wasm-simd-threaded.wasm", import.meta.url).href,
};

/** Unicode NFC, nothing invisible, single spaces: what the model was trained on. */
export function cleanText(text) {
  const words = text.replace(INVISIBLE, "").normalize("NFC").split(SPACES);
  return words.filter((word) => word !== "").join(" ");
}

/** Whether a text has a letter that a token stands for, and one outside of addresses and code. */
export function hasWords(text, tokens) {
  const known = tokens.some((token) => !NOT_TEXT.test(token) && LETTER.test(token));
  return known && LETTER.test(text.replace(CODE, ""));
}

/** Whether most words of a text are not of the language's script, or are code and marks. */
export function looksForeign(text, language) {
  let script;
  try {
    ({ script } = new Intl.Locale(language).maximize());
  } catch {
    return false;
  }
  const scripts = SCRIPTS[script] ?? [script];
  const own = new RegExp(`[${scripts.map((name) => `\\p{Script=${name}}`).join("")}]`, "u");
  const words = text.replace(CODE, " _ ").match(/\p{sc=Han}|[\p{L}\p{M}_]+/gu) ?? [];
  return words.filter((word) => own.test(word[0])).length * 2 < Math.max(1, words.length);
}

/** A text in which there is nothing to translate, as one line. */
export function copyText(text) {
  return UNPRINTABLE.test(text.trim()) ? cleanText(text) : text.trim();
}

/** Make the tokenizer of a `tokenizer.json`. */
export function makeTokenizer(content) {
  const special = new Set(content.added_tokens.map((token) => token.id));
  // "<eos>" typed by somebody is text. Not every browser knows `(?m:`; a line's end never gets
  // as far as this last branch.
  const { pre_tokenizer: split } = content;
  const pattern = { Regex: split.pattern.Regex.replace("(?m:.)", ".") };
  const tokenizer = new Tokenizer(
    { ...content, added_tokens: [], pre_tokenizer: { ...split, pattern } },
    {},
  );
  const bytes = tokenizer.decoder.decoders.find((decoder) => decoder.text_decoder);
  if (bytes) bytes.text_decoder = { decode: decodeBytes };
  return {
    encode: (text) => tokenizer.encode(text).ids,
    decode(ids) {
      const written = ids.filter((id) => !special.has(id));
      if (written.length === 0) return "";
      return tokenizer.decode(written, { clean_up_tokenization_spaces: false });
    },
    token: (id) => tokenizer.id_to_token(id),
  };
}

/** Bytes as text; those that are no text give one mark each, as in Python. */
function decodeBytes(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return "\ufffd".repeat(bytes.length);
  }
}

export class Translator {
  /** Load an exported folder, which must end in a slash. */
  static async load(folder) {
    const read = async (name, form) => {
      const answer = await fetch(new URL(name, folder));
      if (!answer.ok) throw new Error(`${name} cannot be read (${answer.status})`);
      return answer[form]();
    };
    const [settings, content, ...graphs] = await Promise.all([
      read("translation.json", "json"),
      read("tokenizer.json", "json"),
      read("encoder_model.onnx", "arrayBuffer"),
      read("decoder_model.onnx", "arrayBuffer"),
    ]);
    if (settings.format !== FORMAT) throw new Error("this export has another format");
    const self = new Translator();
    self.settings = settings;
    self.tokenizer = makeTokenizer(content);
    self.size = graphs.reduce((sum, graph) => sum + graph.byteLength, 0);
    self.encoder = await ort.InferenceSession.create(graphs[0]);
    self.decoder = await ort.InferenceSession.create(graphs[1]);
    return self;
  }

  /** Ids of a sentence, the end included (none without words that the model knows), and whether it was cut. */
  encode(text) {
    const { max_source_length: limit, cut_keeps_end: keeps } = this.settings;
    const characters = [...cleanText(text)];
    const most = limit === null ? characters.length : limit * CHARACTERS_PER_TOKEN;
    let ids = this.tokenizer.encode(characters.slice(0, most).join(""));
    const known = [...ids.map((id) => this.tokenizer.token(id)), ...characters.slice(most)];
    if (!hasWords(characters.join(""), known)) return { ids: [], truncated: false };
    const truncated = characters.length > most || (limit !== null && ids.length > limit);
    if (limit !== null && ids.length > limit) {
      ids = keeps ? [...ids.slice(0, limit - 1), ids.at(-1)] : ids.slice(0, limit);
    }
    return { ids: ids.length > 1 ? ids : [], truncated };
  }

  /**
   * Translate one sentence.
   * @returns {{text, source, target, attention, truncated, copied}} Its text, the tokens of both
   *     sides and, of a model that attends, a row of weights for each target token.
   */
  async translate(text, numBeams = this.settings.num_beams) {
    const { ids: source, truncated } = this.encode(text);
    const found = source.length ? await this.search(source, numBeams) : { ids: [], attention: [] };
    const end = found.ids.indexOf(this.settings.pad_token_id);
    const written = this.tokenizer.decode(end < 0 ? found.ids : found.ids.slice(0, end));
    return {
      text: source.length ? cleanText(written) : copyText(text),
      source: source.map((id) => this.tokenizer.token(id)),
      target: found.ids.map((id) => this.tokenizer.token(id)),
      attention: found.attention,
      truncated,
      copied: source.length === 0 && text.trim() !== "",
    };
  }

  /** Read the source, once for all beams. */
  async read(source, numBeams) {
    const { pad_source_to: width, pad_token_id: pad } = this.settings;
    const ids = source.concat(Array(Math.max(0, (width ?? 0) - source.length)).fill(pad));
    const int64 = (values) =>
      new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
    const found = await this.encoder.run({
      input_ids: int64(ids),
      attention_mask: int64(ids.map((_, i) => (i < source.length ? 1 : 0))),
    });
    const rows = Array(numBeams).fill(0);
    return Object.fromEntries(Object.entries(found).map(([name, x]) => [name, take(x, rows)]));
  }

  /** Keep the best beginnings by the rules of transformers' beam search; one beam is greedy. */
  async search(source, K) {
    const settings = this.settings;
    const ends = new Set(settings.eos_token_ids);
    const { length_penalty: penalty, early_stopping: early, max_new_tokens: limit } = settings;
    const numCandidates = K === 1 ? 1 : Math.max(2, 1 + ends.size) * K;
    let { state, ...memory } = await this.read(source, K);
    let running = Array.from({ length: K }, (_, i) => ({
      ids: [],
      attention: [],
      last: settings.decoder_start_token_id,
      // The beams begin alike: all but the first are held back for one step.
      score: i === 0 ? 0 : NEVER,
    }));
    let ended = [];
    for (let length = 1; length <= limit; ++length) {
      const last = BigInt64Array.from(running, (beam) => BigInt(beam.last));
      const input_ids = new ort.Tensor("int64", last, [running.length, 1]);
      const step = await this.decoder.run({ input_ids, state, ...memory });
      const candidates = best(step.logits, running, numCandidates);
      const going = [];
      candidates.forEach(({ score, row, word }, place) => {
        const { ids, attention } = running[row];
        const next = {
          ids: [...ids, word],
          attention: step.attention ? [...attention, rowOf(step.attention, row)] : [],
          last: word,
          row,
          score,
        };
        if (!ends.has(word) && length < limit) going.push(next);
        else if (place < K) ended.push({ ...next, score: score / length ** penalty });
      });
      ended = ended.sort((a, b) => b.score - a.score).slice(0, K);
      going.length = Math.min(going.length, K);
      if (going.length === 0) break;
      // Can the best running beam still pass the worst ended hypothesis?
      const reach = early === "never" && penalty > 0 ? limit : length;
      const bound = going[0].score / reach ** penalty;
      if (ended.length === K && (early === true || bound <= ended[K - 1].score)) break;
      running = going;
      state = take(step.next_state, running.map((beam) => beam.row));
    }
    return ended[0];
  }
}

/** The given rows of a tensor. */
function take(x, rows) {
  const size = x.data.length / x.dims[0];
  const data = new Float32Array(rows.length * size);
  rows.forEach((row, i) => data.set(x.data.subarray(row * size, (row + 1) * size), i * size));
  return new ort.Tensor("float32", data, [rows.length, ...x.dims.slice(1)]);
}

function rowOf(x, row) {
  const size = x.data.length / x.dims[0];
  return x.data.slice(row * size, (row + 1) * size);
}

/** The best n continuations of all beams, the best first. */
function best(logits, running, n) {
  const [rows, V] = logits.dims;
  const found = [];
  for (let row = 0; row < rows; ++row) {
    const values = logits.data.subarray(row * V, (row + 1) * V);
    const highest = values.reduce((a, b) => Math.max(a, b));
    const sum = values.reduce((total, x) => total + Math.exp(x - highest), 0);
    const offset = running[row].score - highest - Math.log(sum);
    for (let word = 0; word < V; ++word) {
      const score = values[word] + offset;
      if (found.length === n && score <= found[n - 1].score) continue;
      let place = found.length;
      while (place > 0 && found[place - 1].score < score) --place;
      found.splice(place, 0, { score, row, word });
      if (found.length > n) found.pop();
    }
  }
  return found;
}
