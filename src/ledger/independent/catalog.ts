import { hash } from 'node:crypto';
import type { Tx } from '../../db/pool.ts';
import { GUARD_FUNCTIONS, GUARDS, type Guard } from '../guards.ts';
import { BOOK_TABLES, createIndex, UNIQUE_INDEXES } from '../unique-indexes.ts';
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

/** Compares the triggers, functions and unique indexes of the catalogs with the list of guards. By name, as whoever only looks may do. */
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
  await judgeIndexes(tx, findings);
  await judgeRowSecurity(tx, findings);
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

interface IndexRow {
  readonly table: string;
  readonly index: string;
  readonly definition: string;
  readonly is_sound: boolean;
}

async function judgeIndexes(tx: Tx, findings: Findings): Promise<void> {
  const { rows } = await tx.query<IndexRow>(
    `select r.relname as "table", c.relname as index, pg_get_indexdef(i.indexrelid) as definition,
            i.indisunique and i.indisvalid and i.indisready and i.indislive as is_sound
     from pg_index i
     join pg_class c on c.oid = i.indexrelid
     join pg_class r on r.oid = i.indrelid
     join pg_namespace n on n.oid = r.relnamespace and n.nspname = 'payments'`,
  );
  for (const expected of UNIQUE_INDEXES) {
    findings.examined('guards');
    const { table, index, over } = expected;
    const found = rows.find((row) => row.table === table && row.index === index);
    if (found?.is_sound && found.definition.endsWith(` USING btree ${over}`)) continue;
    const [state, first] = found
      ? ['is not unique, not valid or over something else', 'drop it, and run: ']
      : ['is missing', ''];
    findings.fault(
      'guards',
      `index ${index} on payments.${table} ${state}; put it back: ${first}${createIndex(expected)}`,
    );
  }
}

async function judgeRowSecurity(tx: Tx, findings: Findings): Promise<void> {
  const { rows } = await tx.query<{ table: string }>(
    `select c.relname as "table" from pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'payments'
     where c.relkind = 'r' and not c.relrowsecurity`,
  );
  for (const table of BOOK_TABLES) {
    findings.examined('guards');
    if (!rows.some((row) => row.table === table)) continue;
    findings.fault(
      'guards',
      `row-level security of payments.${table} is off; put it back: alter table payments.${table} enable row level security`,
    );
  }
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
