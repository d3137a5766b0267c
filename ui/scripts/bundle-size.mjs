// Fails the build when what the first screen loads is over its budget.
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

const LIMIT_BYTES = 300 * 1024;
const dist = new URL('../dist/', import.meta.url).pathname;
const manifest = JSON.parse(readFileSync(join(dist, '.vite/manifest.json'), 'utf8'));

const first = new Set();
function take(key) {
  const chunk = manifest[key];
  if (!chunk || first.has(chunk.file)) return;
  first.add(chunk.file);
  for (const file of [...(chunk.css ?? []), ...(chunk.assets ?? [])]) first.add(file);
  for (const next of chunk.imports ?? []) take(next);
}
/** The size of what is needed up to this point, in bytes. */
const sizeSoFar = () => [...first].reduce((sum, file) => sum + sizeOf(file), gzipSync(readFileSync(join(dist, 'index.html'))).length);

// Fonts are compressed already and come as they are.
const sizeOf = (file) => {
  const bytes = readFileSync(join(dist, file));
  return file.endsWith('.woff2') ? bytes.length : gzipSync(bytes, { level: 9 }).length;
};
take('index.html');
const signIn = sizeSoFar();
// The overview.
take('src/app/app.tsx');
const sum = sizeSoFar();
for (const file of [...first].sort()) console.log(`${(sizeOf(file) / 1024).toFixed(1).padStart(8)} KiB  ${file}`);
console.log(`${(signIn / 1024).toFixed(1).padStart(8)} KiB  until the sign-in, gzipped`);
const all = readdirSync(dist, { recursive: true }).map((f) => join(dist, f)).filter((f) => statSync(f).isFile());
const whole = all.reduce((n, f) => n + statSync(f).size, 0);
console.log(`${(sum / 1024).toFixed(1).padStart(8)} KiB  first load, gzipped (limit ${LIMIT_BYTES / 1024} KiB); ${(whole / 1024).toFixed(0)} KiB in ${all.length} files on disk`);
if (sum > LIMIT_BYTES) {
  console.error('The first load is over its limit.');
  process.exit(1);
}
