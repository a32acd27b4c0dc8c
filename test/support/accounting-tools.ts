import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { Queryable } from '../../src/db/pool.ts';

const run = promisify(execFile);
const MAX_OUTPUT_BYTES = 500_000_000;
const ENV = { ...process.env, LC_ALL: 'C.UTF-8', BEANCOUNT_DISABLE_LOAD_CACHE: '1' };

/** What a tool prints about a file; a tool that refuses the file fails the test with what it says. */
async function ask(program: string, args: readonly string[]): Promise<string> {
  const { stdout } = await run(program, [...args], { env: ENV, maxBuffer: MAX_OUTPUT_BYTES });
  return stdout;
}

/** Balances by account id, in ten-thousandths of the currency: no currency has more decimal places. */
export type Balances = ReadonlyMap<string, bigint>;

/** Every account's balance before a day (UTC), as the ledger's entries say; those of the balances' table when left out. */
export async function balancesOfBook(db: Queryable, bookId: number, before?: string): Promise<Balances> {
  const { rows } = await db.query<{ id: string; cents: string; places: number }>(
    before === undefined
      ? `select b.account_id as id, b.balance_cents::text as cents, c.decimal_places as places
         from payments.balances b
         join payments.accounts a on a.id = b.account_id and a.book_id = b.book_id
         join ref.currencies c on c.code = a.currency
         where b.book_id = $1 and ($2::text is null)`
      : `select a.id, coalesce(sum(e.amount_cents), 0)::text as cents, c.decimal_places as places
         from payments.accounts a
         join ref.currencies c on c.code = a.currency
         left join payments.entries e
           on e.account_id = a.id and e.book_id = a.book_id and e.effective_at < ($2 || 'T00:00:00Z')::timestamptz
         where a.book_id = $1
         group by a.id, c.decimal_places`,
    [bookId, before ?? null],
  );
  return new Map(rows.map(({ id, cents, places }) => [id, BigInt(cents) * 10n ** BigInt(4 - places)]));
}

/** The balances that hledger finds, in strict mode; it knows the accounts by the tag that each was declared with. */
export async function balancesByHledger(file: string): Promise<Balances> {
  const csv = await ask('hledger', [
    ...['-f', file, 'balance', '--strict', '--pivot', 'account_id', '--flat', '--empty', '--no-total'],
    ...['-O', 'csv', '--layout', 'bare'],
  ]);
  const [, ...rows] = parseCsv(csv);
  return sumsOf(rows.map(([id = '', , balance = '']) => [id, balance]));
}

/** The balances that Beancount finds in a file that bean-check has no complaint about. */
export async function balancesByBeancount(file: string): Promise<Balances> {
  await ask('bean-check', [file]);
  const ids = new Map(
    [
      ...(await readFile(file, 'utf8')).matchAll(/^\d{4}-\d\d-\d\d open (\S+) [A-Z]+\n {2}account_id: "([^"]+)"$/gm),
    ].map(([, path = '', id = '']) => [path, id]),
  );
  // As text: a column of numbers is rounded to decimal places that are no currency's.
  const rows = await queryBeancount(file, 'select account, str(sum(position)) group by account');
  return sumsOf(
    rows.map(([path = '', inventory = '']) => {
      const [, amount = '0'] = /^\((\S+) [A-Z]{3}\)$/.exec(inventory.trim()) ?? [];
      if (amount === '0' && inventory.trim() !== '()') throw new Error(`no inventory of one currency: ${inventory}`);
      return [ids.get(path.trim()) ?? path.trim(), amount];
    }),
  );
}

/** The balances that the lines of a CSV export add up to. */
export async function balancesByCsv(file: string): Promise<Balances> {
  return sumsOf((await readCsv(file)).map(({ account_id = '', amount = '' }) => [account_id, amount]));
}

export async function readCsv(file: string): Promise<Record<string, string>[]> {
  const [header = [], ...rows] = parseCsv(await readFile(file, 'utf8'));
  return rows.map((row) => Object.fromEntries(header.map((name, index) => [name, row[index] ?? ''])));
}

interface HledgerTransaction {
  readonly tdate: string;
  readonly tcode: string;
  readonly tdescription: string;
  readonly ttags: readonly (readonly [string, string])[];
  readonly tpostings: readonly { readonly paccount: string; readonly ptags: readonly (readonly [string, string])[] }[];
}

export async function transactionsByHledger(file: string): Promise<HledgerTransaction[]> {
  return JSON.parse(await ask('hledger', ['-f', file, 'print', '-O', 'json'])) as HledgerTransaction[];
}

/** Rows of a bean-query, a record each. */
export async function queryBeancount(file: string, query: string): Promise<string[][]> {
  const [, ...rows] = parseCsv(await ask('bean-query', ['-f', 'csv', file, query]));
  return rows;
}

/** Those that differ, each with both; an account that one side does not name has nothing. */
export function differences(ours: Balances, theirs: Balances): { id: string; ours: bigint; theirs: bigint }[] {
  return [...new Set([...ours.keys(), ...theirs.keys()])]
    .map((id) => ({ id, ours: ours.get(id) ?? 0n, theirs: theirs.get(id) ?? 0n }))
    .filter((balance) => balance.ours !== balance.theirs);
}

function sumsOf(amounts: readonly (readonly [string, string])[]): Balances {
  const sums = new Map<string, bigint>();
  for (const [id, amount] of amounts) sums.set(id, (sums.get(id) ?? 0n) + tenThousandths(amount));
  return sums;
}

function tenThousandths(text: string): bigint {
  const [, sign = '', whole = '', fraction = ''] = /^(-?)(\d+)(?:\.(\d{0,4}))?$/.exec(text) ?? [];
  if (whole === '') throw new Error(`no amount: "${text}"`);
  return BigInt(`${sign}${whole}${fraction.padEnd(4, '0')}`);
}

/** RFC 4180, strictly: what follows no rule of it throws. */
function parseCsv(text: string): string[][] {
  const rows: string[][] = [];
  let row: string[] = [];
  const cell = /("(?:[^"]|"")*"|[^",\r\n]*)(,|\r?\n|$)/gy;
  while (cell.lastIndex < text.length) {
    const at = cell.lastIndex;
    const [, value = '', end] = cell.exec(text) ?? [];
    if (end === undefined) throw new Error(`not CSV from ${JSON.stringify(text.slice(at, at + 80))} on`);
    row.push(value.startsWith('"') ? value.slice(1, -1).replaceAll('""', '"') : value);
    if (end === ',') continue;
    rows.push(row);
    row = [];
  }
  return rows;
}
