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

  holds(head, token, moment) {
    if (token >= this.read(moment)) return false;
    const gone = this.gone[head * this.nTokens + token];
    return gone === 0 || (this.evictions.length > 0 && gone > moment);
  }

  // positions that a head holds, ascending
  positions(head, moment) {
    const found = [], n = this.read(moment);
    for (let i = 0; i < n; i++) if (this.holds(head, i, moment)) found.push(i);
    return found;
  }

  // for each token the share of heads that hold it, NaN where it was not read yet
  share(moment) {
    moment = Math.min(moment, this.end);
    if (!this.shares.has(moment)) {
      const sums = new Float32Array(this.nTokens).fill(NaN), n = this.read(moment);
      sums.fill(0, 0, n);
      const known = this.evictions.length > 0;
      for (let h = 0, at = 0; h < this.nHeads; h++, at = h * this.nTokens) {
        for (let i = 0; i < n; i++) {
          const gone = this.gone[at + i];
          if (gone === 0 || (known && gone > moment)) sums[i]++;
        }
      }
      for (let i = 0; i < n; i++) sums[i] /= this.nHeads;
      this.shares.set(moment, sums);
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
