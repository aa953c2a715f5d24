
// The embedded data.
async function unpack(facts) {
  if (typeof DecompressionStream === "undefined") throw new Error("This browser is too old: it needs one of 2023 or later.");
  const text = atob(document.getElementById("data").textContent), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());

  const n = facts.count, chunkCount = Math.ceil(n / 256), tableBytes = 4 * facts.columns * chunkCount;
  const table = new Float32Array(raw.buffer, 0, tableBytes / 4);
  const plane = k => raw.subarray(tableBytes + k * n, tableBytes + (k + 1) * n);
  const records = new Uint8Array(16 * n);
  // x, y, z, the scales, the colour, the rotation: the planes are in the order of the record but for the rotation.
  [0, 1, 2, 3, 4, 5, 6, 7, 8, 13, 14, 15, 9, 10, 11, 12].forEach((source, target) => {
    const from = plane(source);
    for (let i = 0; i < n; i++) records[16 * i + target] = from[i];
  });
  const positions = new Float32Array(3 * n);
  for (let axis = 0; axis < 3; axis++) {
    const low = plane(2 * axis), high = plane(2 * axis + 1);
    for (let i = 0; i < n; i++) {
      const start = facts.columns * (i >> 8) + axis;
      positions[3 * i + axis] = table[start] + table[start + 4] / 65535 * (low[i] | high[i] << 8);
    }
  }
  const coefficients = 3 * ((facts.degree + 1) ** 2 - 1), perHarmonics = Math.ceil(coefficients / 16);
  const harmonics = new Uint8Array(16 * perHarmonics * n);
  for (let k = 0; k < coefficients; k++) {
    const from = plane(17 + k);
    for (let i = 0; i < n; i++) harmonics[16 * perHarmonics * i + k] = from[i];
  }
  return { table, records, positions, harmonics, perHarmonics, opacities: plane(16) };
}
