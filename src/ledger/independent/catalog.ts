import { hash } from 'node:crypto';
import type { Tx } from '../../db/pool.ts';
import { GUARD_FUNCTIONS, GUARDS, type Guard } from '../guards.ts';
import { CURRENCIES_BY_EXPONENT, NORMAL_SIDES } from '../verify.ts';
import type { Findings } from './findings.ts';

interface TriggerRow {
  readonly table: string;
  readonly trigger: string;
  readonly enabled: string;
  readonly definition: string;
  readonly arguments: number;
  readonly function: string;
  readonly function_schema: string;
}

/** Compares the triggers and functions of the catalogs with the list of guards. By name, as whoever only looks may do. */
export async function judgeGuards(tx: Tx, findings: Findings): Promise<void> {
  const { rows: triggers } = await tx.query<TriggerRow>(
    `select c.relname as "table", t.tgname as trigger, t.tgenabled as enabled, pg_get_triggerdef(t.oid) as definition,
            t.tgnargs as arguments, p.proname as function, f.nspname as function_schema
     from pg_trigger t
     join pg_class c on c.oid = t.tgrelid
     join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'payments'
     join pg_proc p on p.oid = t.tgfoid
     join pg_namespace f on f.oid = p.pronamespace
     where not t.tgisinternal`,
  );
  for (const guard of GUARDS) judgeTrigger(findings, guard, triggers);
  const { rows: functions } = await tx.query<{ name: string; body: string }>(
    `select p.proname as name, case when a.aggfnoid is null then concat_ws(' ', p.prosrc,
                case when p.prosecdef then 'security definer' end, case when p.proisstrict then 'strict' end, array_to_string(p.proconfig, ' '))
              else concat_ws(' ', a.aggtransfn::oid, a.aggfinalfn::oid, a.aggmtransfn::oid, a.aggtranstype, a.agginitval) end as body
     from pg_proc p
     join pg_namespace n on n.oid = p.pronamespace
     left join pg_aggregate a on a.aggfnoid = p.oid
     where n.nspname = 'payments'`,
  );
  for (const [name, { hash: expected, migration }] of Object.entries(GUARD_FUNCTIONS)) {
    const hashes = functions.filter((found) => found.name === name).map(({ body }) => hash('sha256', body, 'hex'));
    if (hashes.length > 0 && hashes.every((found) => found === expected)) continue;
    findings.fault(
      'guards',
      `function payments.${name} ${hashes.length === 0 ? 'is missing' : 'was given another body or other settings'}; put it back: run its definition in migrations/${migration}.sql as "create or replace"`,
    );
  }
}

function judgeTrigger(findings: Findings, guard: Guard, triggers: readonly TriggerRow[]): void {
  findings.examined('guards');
  const { table, trigger, fires, scope, runs } = guard;
  const body = `trigger ${trigger} ${fires} on payments.${table} ${scope}`;
  const found = triggers.find((row) => row.table === table && row.trigger === trigger);
  const isOurs =
    found !== undefined &&
    found.definition.toLowerCase().split(' execute function ')[0] === `create ${body}` &&
    found.arguments === 0 &&
    found.function === runs &&
    found.function_schema === 'payments';
  if (isOurs && found.enabled === 'A') return;
  const state =
    found === undefined
      ? 'is missing'
      : !isOurs
        ? 'was replaced by another'
        : found.enabled === 'D'
          ? 'is disabled'
          : 'is not enabled always';
  const create = isOurs ? '' : `create or replace ${body} execute function payments.${runs}(); `;
  findings.fault(
    'guards',
    `trigger ${trigger} on payments.${table} ${state}; put it back: ${create}alter table payments.${table} enable always trigger ${trigger}`,
  );
}

/** Compares the chart of accounts with what the migrations made; what somebody added is his own. Returns every type's normal side. */
export async function judgeChart(tx: Tx, findings: Findings): Promise<Map<string, string>> {
  const { rows: types } = await tx.query<{ type: string; side: string }>(
    'select type, normal_side as side from payments.account_types',
  );
  const sides = new Map(types.map(({ type, side }) => [type, side]));
  findings.examined('chart', sides.size);
  for (const [type, expected] of Object.entries(NORMAL_SIDES)) {
    const side = sides.get(type);
    if (side === expected) continue;
    findings.fault(
      'chart',
      `account type ${type} ${side === undefined ? 'is missing' : `has the normal side ${side}, expected ${expected}`}`,
    );
  }
  const { rows: currencies } = await tx.query<{ code: string; places: number }>(
    `select c.code, c.decimal_places as places from ref.currencies c
     where exists (select from payments.accounts a where a.currency = c.code) order by c.code`,
  );
  findings.examined('chart', currencies.length);
  const exponents = new Map(
    Object.entries(CURRENCIES_BY_EXPONENT).flatMap(([places, codes]) =>
      codes.split(' ').map((code) => [code, Number(places)]),
    ),
  );
  for (const { code, places } of currencies) {
    const expected = exponents.get(code);
    if (expected === undefined || expected === places) continue;
    findings.fault('chart', `currency ${code} has ${places} decimal places, expected ${expected}`);
  }
  return sides;
}

/**
 * The indexes that keep ids and keys of the log unique. That none is there twice is PostgreSQL's word: to look for oneself, all of
 * them would have to be in memory.
 */
const UNIQUE_INDEXES: Readonly<Record<string, string>> = {
  events_pkey: '(position, book_id)',
  events_event_id_key: '(event_id, book_id)',
  events_idempotency_key: '(idempotency_key, idempotency_scope, book_id) where (idempotency_key is not null)',
  entries_pkey: '(id, book_id)',
};

export async function judgeKeys(tx: Tx, findings: Findings): Promise<void> {
  const { rows } = await tx.query<{ name: string; definition: string; is_sound: boolean }>(
    `select c.relname as name, pg_get_indexdef(i.indexrelid) as definition, i.indisunique and i.indisvalid and i.indisready and i.indislive as is_sound
     from pg_index i
     join pg_class c on c.oid = i.indexrelid
     join pg_class r on r.oid = i.indrelid and r.relname in ('events', 'entries')
     join pg_namespace n on n.oid = r.relnamespace and n.nspname = 'payments'`,
  );
  for (const [name, columns] of Object.entries(UNIQUE_INDEXES)) {
    findings.examined('keys');
    const found = rows.find((row) => row.name === name);
    const definition = found?.definition.toLowerCase().split(' using btree ')[1]?.replaceAll('"', '');
    if (found?.is_sound === true && definition === columns) continue;
    findings.fault(
      'keys',
      `index payments.${name} ${found === undefined ? 'is missing' : found.is_sound ? `is over ${definition}, expected ${columns}` : 'is not unique, or not valid'}: the same may be in the log twice`,
    );
  }
}
