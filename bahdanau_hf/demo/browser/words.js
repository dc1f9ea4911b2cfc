// From attention between tokens to attention between words, as `bahdanau_hf/alignment/words.py`
// does it: the sum over a source word's tokens, the mean over a target word's.

const CJK =
  "\\u3005-\\u3007\\u3040-\\u30ff\\u3105-\\u312f\\u31a0-\\u31bf\\u31f0-\\u31ff\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\u{20000}-\\u{3ffff}";
const RUN = `(?:(?![${CJK}])[\\p{L}\\p{N}_][\\u0300-\\u036f]*)+`;
const WORD = new RegExp(`[${CJK}]|${RUN}(?:['’-]${RUN})*|\\S`, "gu");
const BYTE = /^<0x([0-9A-F]{2})>$/;
const END = "(end)";

/** The words of both sides, the end of the source last, and a row of weights for each. */
export function byWords(line, { text, source, target, attention }) {
  const columns = wordsOf(line, source);
  const rows = wordsOf(text, target);
  const weights = rows.map(({ places }) => {
    const row = columns.map((column) =>
      places.reduce((sum, i) => sum + column.places.reduce((all, j) => all + attention[i][j], 0), 0),
    );
    const means = row.map((sum) => sum / places.length);
    return [...means, Math.min(1, Math.max(0, 1 - means.reduce((a, b) => a + b, 0)))];
  });
  return {
    source: [...columns.map(({ word }) => word), END],
    target: rows.map(({ word }) => word),
    weights,
  };
}

/** The words of a text that have tokens, and the places of these tokens. */
function wordsOf(text, tokens) {
  const words = [...text.matchAll(WORD)].map((match) => ({
    word: match[0],
    start: match.index,
    end: match.index + match[0].length,
    places: [],
  }));
  const lower = [...text].map((char) => (char.toLowerCase().length === char.length ? char.toLowerCase() : char)).join("");
  let position = 0;
  let missed = 0;
  for (const { piece, places } of pieces(tokens)) {
    if (piece === "") continue;
    const start = lower.indexOf(piece.toLowerCase(), position);
    const gap = start < 0 ? Infinity : lower.slice(position, start).replace(/\s/g, "").length;
    if (gap > missed) {
      missed += piece.length;
      continue;
    }
    position = start + piece.length;
    missed = 0;
    const overlap = (word) => Math.min(word.end, position) - Math.max(word.start, start);
    const owner = words.reduce((a, b) => (overlap(b) > overlap(a) ? b : a));
    if (overlap(owner) > 0) owner.places.push(...places);
  }
  return words.filter(({ places }) => places.length > 0);
}

/** The tokens as text, the bytes of a character as one; marks such as the end are empty. */
function pieces(tokens) {
  const found = [];
  for (let i = 0; i < tokens.length; ) {
    let [piece, width] = [tokens[i].trim(), 1];
    if (BYTE.test(piece)) {
      const bytes = [];
      while (bytes.length < 4 && BYTE.test(tokens[i + bytes.length] ?? "")) {
        bytes.push(parseInt(BYTE.exec(tokens[i + bytes.length])[1], 16));
      }
      width = [1, 2, 3, 4].find((n) => n <= bytes.length && !decode(bytes.slice(0, n)).includes("\ufffd")) ?? 1;
      piece = decode(bytes.slice(0, width));
    } else if (/^<(?:pad|bos|eos|unk)>$/.test(piece)) piece = "";
    found.push({ piece, places: Array.from({ length: width }, (_, k) => i + k) });
    i += width;
  }
  return found;
}

function decode(bytes) {
  return new TextDecoder().decode(Uint8Array.from(bytes));
}
