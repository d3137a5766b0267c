// Compresses the files of the page, which the server sends to browsers that accept it. What does not
// become smaller, such as fonts, is left as it is.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const DIST = new URL('../dist/', import.meta.url).pathname;
/** A compressed form must save at least this share of the file. */
const SAVED_MIN = 0.1;

const FORMS = {
  br: (bytes) => brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length } }),
  gz: (bytes) => gzipSync(bytes, { level: 9 }),
};

for (const file of readdirSync(DIST, { recursive: true, withFileTypes: true })) {
  if (!file.isFile() || !/\.(js|css|html|svg|json)$/.test(file.name)) continue;
  const path = join(file.parentPath, file.name);
  const bytes = readFileSync(path);
  for (const [suffix, compress] of Object.entries(FORMS)) {
    const small = compress(bytes);
    if (small.length <= bytes.length * (1 - SAVED_MIN)) writeFileSync(`${path}.${suffix}`, small);
  }
}
