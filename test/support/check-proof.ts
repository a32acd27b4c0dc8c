import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { toJson } from '../../src/db/json-value.ts';

export const CHECKER = fileURLToPath(new URL('../../scripts/check-proof.py', import.meta.url));

/** Runs the checker as a program of its own once per document; one Python for all of them, which takes its time to start. */
const RUN_ALL = `
import io, json, runpy, sys
CHECKER = ${JSON.stringify(CHECKER)}
codes = []
for known, file in json.load(sys.stdin):
    sys.argv = [CHECKER, file, *known]
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    try:
        runpy.run_path(CHECKER, run_name="__main__")
        codes.append(0)
    except SystemExit as end: codes.append(0 if end.code is None else end.code if isinstance(end.code, int) else 1)
sys.__stdout__.write(json.dumps(codes))`;

/** What the checker that the package ships ends with, for each document (or its text) with the hashes that are known of it. */
export function checkProofs(documents: readonly unknown[], known: readonly (readonly string[])[] = []): number[] {
  const folder = mkdtempSync(join(tmpdir(), 'liventix-proof-'));
  try {
    const runs = documents.map((document, nth) => {
      const file = join(folder, `${nth}.json`);
      writeFileSync(file, typeof document === 'string' ? document : toJson(document));
      return [known[nth] ?? [], file];
    });
    // Isolated: nothing but Python and its standard library.
    const python = spawnSync('python3', ['-I', '-c', RUN_ALL], {
      input: JSON.stringify(runs),
      encoding: 'utf8',
    });
    if (python.error !== undefined) throw python.error;
    return JSON.parse(python.stdout);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The same for one document, run as a reader would. */
export const checkProof = (document: unknown, ...known: readonly string[]): number | null =>
  runChecker(document, known).status;

/** What the checker prints. */
export const saidOfProof = (document: unknown, ...known: readonly string[]): string =>
  runChecker(document, known).stdout;

function runChecker(document: unknown, known: readonly string[]) {
  const folder = mkdtempSync(join(tmpdir(), 'liventix-proof-'));
  try {
    const file = join(folder, 'proof.json');
    writeFileSync(file, toJson(document));
    const { status, stdout, error } = spawnSync('python3', ['-I', CHECKER, file, ...known], { encoding: 'utf8' });
    if (error !== undefined) throw error;
    return { status, stdout };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Every way to change one value of a document, each with its path. */
export function changes<T>(document: T): { path: string; changed: T }[] {
  return [...changesOf(document)].map(([path, changed]) => ({ path, changed: changed as T }));
}

function* changesOf(value: unknown, path = ''): Generator<[string, unknown]> {
  if (Array.isArray(value)) {
    yield [`${path} with one more`, [...value, '00'.repeat(32)]];
    if (value.length > 0) yield [`${path} with one less`, value.slice(1)];
    if (value.length > 1) yield [`${path} the other way round`, value.toReversed()];
    for (const [nth, inner] of value.entries()) {
      for (const [where, changed] of changesOf(inner, `${path}[${nth}]`)) yield [where, value.with(nth, changed)];
    }
  } else if (typeof value === 'object' && value !== null) {
    for (const [key, inner] of Object.entries(value)) {
      for (const [where, changed] of changesOf(inner, `${path}.${key}`)) yield [where, { ...value, [key]: changed }];
      const { [key]: _left, ...rest } = value as Record<string, unknown>;
      yield [`${path}.${key} left out`, rest];
    }
  } else if (value === null) {
    yield [path, ''];
  } else if (typeof value === 'string') {
    const last = value.at(-1);
    yield [path, `${value.slice(0, -1)}${last === '0' ? '1' : '0'}`];
    yield [`${path} emptied`, value === '' ? null : ''];
  } else if (typeof value === 'bigint') {
    yield [path, value + 1n];
    yield [`${path} less one`, value - 1n];
  } else if (typeof value === 'number') {
    yield [path, value + 1];
  }
}
