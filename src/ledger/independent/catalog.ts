import { hash } from 'node:crypto';
import type { Tx } from '../../db/pool.ts';
import {
  BOOK_POLICY,
  BOOK_TABLES,
  CONSTRAINTS,
  constraintRepair,
  indexRepair,
  policyRepair,
  UNIQUE_INDEXES,
} from '../constraints.ts';
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

/** Compares the triggers, constraints, unique indexes, policies and functions of the catalogs with the list of guards. By name, as whoever only looks may do. */
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
  await judgeConstraints(tx, findings);
  await judgeIndexes(tx, findings);
  await judgePolicies(tx, findings);
  await judgeFunctions(tx, findings);
}

async function judgeFunctions(tx: Tx, findings: Findings): Promise<void> {
  const { rows: functions } = await tx.query<{ name: string; body: string }>(
    `select p.proname as name, case when a.aggfnoid is null then concat_ws(' ', p.prosrc,
                case when p.prosecdef then 'security definer' end, case when p.proisstrict then 'strict' end, p.provolatile,
                array_to_string(p.proconfig, ' '), case when p.proowner <> e.relowner then 'of another owner' end)
              else concat_ws(' ', a.aggtransfn::oid, a.aggfinalfn::oid, a.aggmtransfn::oid, a.aggtranstype, a.agginitval) end as body
     from pg_proc p
     join pg_namespace n on n.oid = p.pronamespace
     join pg_class e on e.relnamespace = n.oid and e.relname = 'events'
     left join pg_aggregate a on a.aggfnoid = p.oid
     where n.nspname = 'payments'`,
  );
  for (const [name, { hash: expected, migration }] of Object.entries(GUARD_FUNCTIONS)) {
    findings.examined('guards');
    const hashes = functions.filter((found) => found.name === name).map(({ body }) => hash('sha256', body, 'hex'));
    if (hashes.length > 0 && hashes.every((found) => found === expected)) continue;
    findings.fault(
      'guards',
      `function payments.${name} ${hashes.length === 0 ? 'is missing' : 'was given another body, other settings or another owner'}; put it back: run its definition in migrations/${migration}.sql as "create or replace"`,
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
    `trigger ${trigger} on payments.${table} ${state}; put it back: ${create}alter table payments.${table} enable always trigger ${trigger};`,
  );
}

interface ConstraintRow {
  readonly table: string;
  readonly name: string;
  readonly definition: string;
  /** Of a foreign key: the table that it is to, with its schema. */
  readonly to: string | null;
  readonly is_enforced: boolean;
}

async function judgeConstraints(tx: Tx, findings: Findings): Promise<void> {
  const { rows } = await tx.query<ConstraintRow>(
    `select c.relname as "table", k.conname as name, pg_get_constraintdef(k.oid) as definition, fn.nspname || '.' || f.relname as "to",
            not exists (select from pg_trigger t where t.tgconstraint = k.oid and t.tgenabled = 'D')
              and (k.contype not in ('p', 'u') or (i.indisunique and i.indisvalid and i.indisready and i.indislive)) as is_enforced
     from pg_constraint k
     join pg_class c on c.oid = k.conrelid
     join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'payments'
     left join pg_index i on i.indexrelid = k.conindid
     left join pg_class f on f.oid = k.confrelid
     left join pg_namespace fn on fn.oid = f.relnamespace`,
  );
  for (const expected of CONSTRAINTS) {
    findings.examined('guards');
    const { table, name, definition } = expected;
    const found = rows.find((row) => row.table === table && row.name === name);
    const spelled = found?.definition.replace(' NOT VALID', '').replace(/ REFERENCES [^(]+/, ` REFERENCES ${found.to}`);
    if (found?.is_enforced && spelled === definition) continue;
    const state = found ? 'is another one, or is not enforced' : 'is missing';
    findings.fault(
      'guards',
      `constraint ${name} on payments.${table} ${state}; put it back: ${constraintRepair(expected, found !== undefined)};`,
    );
  }
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
    const { table, name, definition } = expected;
    const found = rows.find((row) => row.table === table && row.index === name);
    const spelled = found?.definition.replace(/ WITH \([^)]*\)/, '');
    if (found?.is_sound && spelled?.endsWith(` USING btree ${definition}`)) continue;
    const state = found ? 'is not unique, not valid or over something else' : 'is missing';
    findings.fault(
      'guards',
      `index ${name} on payments.${table} ${state}; put it back: ${indexRepair(expected, found !== undefined)};`,
    );
  }
}

interface PolicyRow {
  readonly table: string;
  readonly is_on: boolean;
  /** Null where the table has no policy. */
  readonly name: string | null;
  readonly quoted: string;
  readonly is_ordinary: boolean;
  readonly shows: string;
  readonly asks: string[];
}

async function judgePolicies(tx: Tx, findings: Findings): Promise<void> {
  const { rows } = await tx.query<PolicyRow>(
    `select c.relname as "table", c.relrowsecurity as is_on, p.polname as name, quote_ident(p.polname) as quoted,
            p.polcmd = 'r' and p.polpermissive and p.polroles = '{0}' and p.polwithcheck is null as is_ordinary,
            pg_get_expr(p.polqual, p.polrelid) as shows,
            array(select bn.nspname || '.' || b.proname from pg_depend d join pg_proc b on b.oid = d.refobjid
                  join pg_namespace bn on bn.oid = b.pronamespace where d.classid = 'pg_catalog.pg_policy'::regclass and d.objid = p.oid) as asks
     from pg_class c
     join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'payments'
     left join pg_policy p on p.polrelid = c.oid
     where c.relkind = 'r'
     order by p.polname`,
  );
  for (const table of BOOK_TABLES) {
    findings.examined('guards');
    const all = rows.filter((row) => row.table === table);
    const [first] = all;
    if (first === undefined) continue;
    const isOurs =
      all.length === 1 &&
      first.name === 'books_granted' &&
      first.is_ordinary &&
      first.shows.replaceAll('payments.', '') === BOOK_POLICY &&
      first.asks.includes('payments.books_of');
    if (first.is_on && isOurs) continue;
    const present = all.flatMap(({ name, quoted }) => (name === null ? [] : [quoted]));
    findings.fault(
      'guards',
      `policy of payments.${table} ${first.is_on ? 'is not the one that shows the books granted' : 'is off'}; put it back: ${policyRepair(table, present)};`,
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
