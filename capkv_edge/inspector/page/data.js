"use strict";
// The recorded data, unpacked: which tokens each head of a run holds at a moment.
//
// Moments of a run with E recorded evictions: 1 .. E is right after that eviction, E + 1 is the end of the text. A session knows
// the end alone.

async function unpack(text, Type) {
  const bytes = Uint8Array.from(atob(text), char => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Type(await new Response(stream).arrayBuffer());
}

class Run {
  constructor(json, page) {
    Object.assign(this, json);
    this.page = page;
    this.nTokens = page.text.length;
    this.nHeads = page.heads.length;
    this.shares = new Map();
  }

  async load() {
    this.gone = await unpack(this.gone, this.goneBytes === 1 ? Uint8Array : Uint32Array); // [nHeads, nTokens]
    for (const one of this.scores) {
      if (!one) continue;
      for (const name of ["low", "high", "edge"]) one[name] = await unpack(one[name], Float32Array); // [nHeads]
      for (const name of ["kept", "dropped"]) one[name] = await unpack(one[name], Uint16Array); // [nHeads, bins]
      one.bins = one.kept.length / this.nHeads;
    }
    return this;
  }

  get end() { return this.evictions.length + 1; }
  at(moment) { return moment > this.evictions.length ? null : this.evictions[moment - 1]; } // null at the end
  read(moment) { return this.at(moment)?.read ?? this.nTokens; } // tokens read by then
  tail(moment) { return this.at(moment)?.tail ?? this.tailAtEnd; }
  capacityAt(moment) { return this.at(moment)?.capacity ?? this.capacity; }
  layersAt(moment) { return this.at(moment)?.layers ?? this.capacityLayers; }
  scoresAt(moment) { return this.scores[Math.min(moment, this.end) - 1]; }

  // tokens that a later eviction dropped are still held; of a session nothing is known of evictions but that they were before
  least(moment) { return this.evictions.length ? moment : Infinity; }

  holds(head, token, moment) {
    if (token >= this.read(moment)) return false;
    const gone = this.gone[head * this.nTokens + token];
    return gone === 0 || gone > this.least(moment);
  }

  // the share of the tokens that a head holds, in n equal parts of the text; NaN where none was read yet
  heldIn(head, moment, n) {
    const held = new Float32Array(n), size = new Float32Array(n), read = this.read(moment), at = head * this.nTokens;
    const least = this.least(moment);
    for (let i = 0; i < read; i++) {
      const part = Math.floor(i * n / this.nTokens), gone = this.gone[at + i];
      size[part]++;
      if (gone === 0 || gone > least) held[part]++;
    }
    return held.map((count, part) => size[part] ? count / size[part] : NaN);
  }

  // positions that a head holds, ascending
  positions(head, moment) {
    const out = [], read = this.read(moment), at = head * this.nTokens, least = this.least(moment);
    for (let i = 0; i < read; i++) {
      const gone = this.gone[at + i];
      if (gone === 0 || gone > least) out.push(i);
    }
    return out;
  }

  // how many heads have dropped each token by an eviction: [evictions + 1, nTokens], for a session [2, nTokens]
  countLost() {
    const n = this.nTokens, rows = Math.max(this.evictions.length, 1) + 1, lost = new Uint16Array(rows * n);
    for (let h = 0, at = 0; h < this.nHeads; h++, at += n) {
      for (let i = 0; i < n; i++) lost[this.gone[at + i] * n + i]++;
    }
    lost.fill(0, 0, n); // those that were never dropped
    for (let i = n; i < lost.length; i++) lost[i] += lost[i - n];
    return lost;
  }

  // for each token the share of heads that hold it, NaN where it was not read yet
  share(moment) {
    moment = Math.min(moment, this.end);
    if (!this.shares.has(moment)) {
      this.lost ??= this.countLost();
      const n = this.nTokens, read = this.read(moment), row = Math.min(this.least(moment), Math.max(this.evictions.length, 1));
      this.shares.set(moment, Float32Array.from({ length: n }, (_, i) => i < read ? 1 - this.lost[row * n + i] / this.nHeads : NaN));
    }
    return this.shares.get(moment);
  }

  isPinned(token) { return this.pins.some(([start, stop]) => start <= token && token < stop); }
}

// means of values over n equal parts; NaN where there are none
function binned(values, n) {
  const out = new Float32Array(n);
  for (let b = 0; b < n; b++) {
    const from = Math.floor(b * values.length / n), to = Math.max(from + 1, Math.floor((b + 1) * values.length / n));
    let sum = 0, count = 0;
    for (let i = from; i < to; i++) if (!Number.isNaN(values[i])) { sum += values[i]; count++; }
    out[b] = count ? sum / count : NaN;
  }
  return out;
}
