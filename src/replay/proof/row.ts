import { hash } from 'node:crypto';
import { microsecondsOf } from '../../ledger/independent/microseconds.ts';
import { uuidOf } from '../../ledger/independent/values.ts';
import type { Source } from '../sources.ts';

// Written down in docs/proofs.md, for programs of others: none of it changes. Everything is here twice, in SQL and in TypeScript.

/** What both sides keep of a row of the old tables, every value as PostgreSQL prints it. */
export interface ProvenRow {
  readonly id: string;
  /** Its holder's account; null where the row moves nothing. */
  readonly account: string | null;
  readonly amount: bigint;
  readonly type: string | null;
  readonly referenceType: string | null;
  readonly referenceId: string | null;
  readonly key: string | null;
  readonly createdAt: string | null;
}

const ROW_PREFIX = { wallet_transactions: 1, org_wallet_transactions: 2 } as const satisfies Record<
  Source['name'],
  number
>;
const BALANCE_PREFIX = { wallet_transactions: 3, org_wallet_transactions: 4 } as const satisfies Record<
  Source['name'],
  number
>;
/** So many hexadecimal digits of a hash are its number: 120 bits, two halves that each fit into 64. */
const DIGITS = 30;
const HALF_BITS = 60n;
const NO_ID = '0'.repeat(32);

/** What of a row that moves nothing is compared: the log keeps no more of it. */
export function asProven(row: ProvenRow): ProvenRow {
  if (row.amount !== 0n && row.account !== null) return row;
  return { ...row, account: null, amount: 0n, referenceId: null, key: null };
}

let bytes = Buffer.alloc(4_096);

/** The number of a row that `asProven` answered. */
export function numberOfRow(source: Source['name'], row: ProvenRow): bigint {
  const texts = [row.type, row.referenceType, row.referenceId, row.key];
  const most = texts.reduce((sum, text) => sum + (text?.length ?? 0), 0) * 3 + 100;
  if (bytes.length < most) bytes = Buffer.alloc(most * 2);
  bytes[0] = ROW_PREFIX[source];
  bytes.write(plain(row.id), 1, 'hex');
  bytes.write(row.account === null ? NO_ID : plain(row.account), 17, 'hex');
  bytes.writeBigInt64BE(row.amount, 33);
  let end = 41;
  const createdAt = row.createdAt === null ? undefined : microsecondsOf(row.createdAt);
  end = bytes.writeInt32BE(createdAt === undefined ? -1 : 8, end);
  if (createdAt !== undefined) end = bytes.writeBigInt64BE(createdAt, end);
  for (const text of texts) {
    const length = text === null ? -1 : bytes.write(text, end + 4, 'utf8');
    bytes.writeInt32BE(length, end);
    end += 4 + Math.max(length, 0);
  }
  return numberOf(bytes.subarray(0, end));
}

/** The number of what a holder has. */
export function numberOfBalance(source: Source['name'], account: string, balance: bigint): bigint {
  bytes[0] = BALANCE_PREFIX[source];
  bytes.write(plain(account), 1, 'hex');
  bytes.writeBigInt64BE(balance, 17);
  return numberOf(bytes.subarray(0, 25));
}

const plain = (id: string): string => id.replaceAll('-', '');
const numberOf = (input: Uint8Array): bigint => BigInt(`0x${hash('sha256', input, 'hex').slice(0, DIGITS)}`);

/** Of an id's SHA-256 the first byte: so that no chunk is larger than others, however the ids were made. */
export function chunkOf(id: string): number {
  return Number.parseInt(hash('sha256', Buffer.from(plain(id), 'hex'), 'hex').slice(0, 2), 16);
}

/** A reference of a user's row as the log keeps it: an id in small letters, another text as it is or by its hash. */
export function keptReference(text: string | null): string | null {
  return text === null ? null : (uuidOf(text) ?? keptText(text));
}

/** Whether a kept reference is an id. */
export const isId = (kept: string | null): boolean => kept !== null && uuidOf(kept) !== null;

const MAX_TEXT_BYTES = 500;

/** A text as the log keeps it: by its hash where it is long, or looks like one. */
export function keptText(text: string): string {
  if (Buffer.byteLength(text) <= MAX_TEXT_BYTES && !text.startsWith('sha256:')) return text;
  return `sha256:${hash('sha256', text, 'hex')}`;
}

const sized = (bytesSql: string) =>
  `case when ${bytesSql} is null then '\\xffffffff'::bytea else int4send(octet_length(${bytesSql})) || ${bytesSql} end`;
const text = (column: string) => sized(`convert_to(${column}, 'UTF8')`);
const prefixSql = (prefixes: Readonly<Record<Source['name'], number>>) =>
  `case s.source when 'wallet_transactions' then '\\x0${prefixes.wallet_transactions}'::bytea else '\\x0${prefixes.org_wallet_transactions}'::bytea end`;

/** SQL of the hash of row `s`, of the columns of `ProvenRow` with its source, as `asProven` has them. */
const ROW_HASH = `encode(sha256(${prefixSql(ROW_PREFIX)} || uuid_send(s.id) || uuid_send(coalesce(s.account, '${NO_ID}'))
  || int8send(s.amount) || ${sized('timestamptz_send(s.created_at)')} || ${text('s.type')} || ${text('s.reference_type')}
  || ${text('s.reference_id')} || ${text('s.key')}), 'hex')`;

const BALANCE_HASH = `encode(sha256(${prefixSql(BALANCE_PREFIX)} || uuid_send(s.id) || int8send(s.amount)), 'hex')`;

const chunkSql = (id: string) => `get_byte(sha256(uuid_send(${id})), 0)`;

/**
 * SQL of the sums of rows: count, cents, and the two halves of the numbers, each with the row's sign, per group.
 * @param rows SELECT of source, is_open, sign, id, account, amount, type, reference_type, reference_id, key, created_at
 */
export function rowSumsSql(rows: string, groupBy: 'chunk' | 'id'): string {
  return sumsSql(
    `select r.source, r.is_open, r.sign, r.id, r.type, r.reference_type, r.created_at,
            case when m.moves then r.account end as account, case when m.moves then r.amount else 0 end as amount,
            case when m.moves then r.reference_id end as reference_id, case when m.moves then r.key end as key
     from (${rows}) r cross join lateral (select coalesce(r.amount, 0) <> 0 and r.account is not null as moves) m`,
    ROW_HASH,
    groupBy,
  );
}

/** The same of balances: SELECT of source, is_open, sign, id (the account's), amount. */
export function balanceSumsSql(balances: string): string {
  return sumsSql(balances, BALANCE_HASH, 'chunk');
}

function sumsSql(rows: string, hashSql: string, groupBy: 'chunk' | 'id'): string {
  const half = (from: number) => `('x' || substr(h.hash, ${from}, ${DIGITS / 2}))::bit(${HALF_BITS})::bigint`;
  const group = groupBy === 'chunk' ? `${chunkSql('s.id')} as chunk` : 's.id';
  return `
    select s.source, s.is_open, ${group}, sum(s.sign) as count, sum(s.sign * s.amount::numeric) as cents,
           sum(s.sign * ${half(1)}::numeric) * ${2n ** HALF_BITS} + sum(s.sign * ${half(1 + DIGITS / 2)}::numeric) as number
    from (${rows}) s
    cross join lateral (select ${hashSql} as hash offset 0) h
    group by 1, 2, 3`;
}

/** SQL of whether an id is of one of some chunks, by a parameter that is a list of numbers. */
export const isOfChunks = (id: string, chunks: string) => `${chunkSql(id)} = any (${chunks})`;
