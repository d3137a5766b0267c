// Writes the same modules as CommonJS, for programs that call `require`, to cjs/. `npm pack` runs it.
// It knows only the forms of import and export that these modules use; the package's tests load the result.

import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

const folder = (path) => new URL(path, import.meta.url);
rmSync(folder("cjs"), { recursive: true, force: true });
for (const name of ["maxine", "lib/xxh3", "lib/balance", "lib/nodes", "lib/credentials", "lib/client", "lib/undici", "lib/grpc", "lib/otel", "index"]) {
  const exported = [];
  const text = readFileSync(folder(`${name}.mjs`), "utf8")
    .replace(/^export (async function\*?|function\*?|class|const) (\w+)/gm, (_, kind, one) => (exported.push(one), `${kind} ${one}`))
    .replace(/^export \{(.*)\} from "(.*)\.mjs";$/gm, "Object.assign(module.exports, (({$1}) => ({$1}))(require(\"$2.cjs\")));")
    .replace(/^import \{(.*)\} from "(.*?)(\.mjs)?";$/gm, (_, names, from, own) =>
      `const {${names.replaceAll(" as ", ": ")}} = require("${from}${own ? ".cjs" : ""}");`)
    .replace(/^import (\w+) from "(.*)";$/gm, 'const $1 = require("$2");');
  if (/^(import|export) /m.test(text)) throw new Error(`${name}.mjs has an import or export of another form`);
  const to = folder(`cjs/${name}.cjs`);
  mkdirSync(dirname(to.pathname), { recursive: true });
  writeFileSync(to, `"use strict";\n${text}${exported.length > 0 ? `\nObject.assign(module.exports, { ${exported.join(", ")} });\n` : ""}`);
}
// TypeScript reads one file of types for each kind of module.
for (const name of ["index", "lib/undici", "lib/grpc", "lib/otel"]) {
  writeFileSync(folder(`cjs/${name}.d.cts`), readFileSync(folder(`${name}.d.mts`), "utf8").replaceAll("../index.mjs", "../index.cjs"));
}
