/** Saves data as a file of the browser, and lists as CSV (RFC 4180). */

export function saveFile(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob);
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

type Value = string | number | boolean | null | undefined;

/** A spreadsheet would run a text that begins like a formula. */
function cell(value: Value): string {
  const text = value === null || value === undefined ? '' : String(value);
  const safe = typeof value === 'string' && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function csv<T>(rows: readonly T[], columns: readonly (readonly [string, (row: T) => Value])[]): string {
  const lines = [columns.map(([name]) => cell(name)), ...rows.map((row) => columns.map(([, of]) => cell(of(row))))];
  return lines.map((line) => `${line.join(',')}\r\n`).join('');
}

export function saveCsv<T>(name: string, rows: readonly T[], columns: Parameters<typeof csv<T>>[1]): void {
  saveFile(new Blob([csv(rows, columns)], { type: 'text/csv;charset=utf-8' }), `${name}.csv`);
}
