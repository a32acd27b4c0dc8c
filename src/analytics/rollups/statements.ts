import pg from 'pg';
import type { RefreshedView, Rollup } from './declaration.ts';
import type { MissingGuard } from './guards.ts';
import { contributedColumns, contributedOf, contribution, keyColumns, keyed, mediansOf } from './merge.ts';
import { innerName, TRIGGER, targetOf } from './names.ts';

const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

/** A declared rollup, and what the catalog says of its source. */
export interface Resolved {
  readonly rollup: Rollup;
  /** Where the source may be, quoted, in the order in which it is looked for. */
  readonly sources: readonly string[];
  /** The types of the group columns, in their order. */
  readonly groupTypes: readonly string[];
  /** Roles that there are, of those who read everything. */
  readonly readAll: readonly string[];
  /** Queries with their tables in them. */
  readonly readSome: readonly { readonly roles: readonly string[]; readonly column: string; readonly among: string }[];
}

/** The tables, their rights, and the functions. The trigger function is made with them, the triggers come under the lock of the source. */
export function tableStatements(resolved: Resolved): readonly string[] {
  const { rollup, groupTypes } = resolved;
  const { group, count, distinct, countIf, measures, median } = rollup;
  const target = targetOf(rollup);
  const columns = [
    `cell bigint generated always as identity constraint ${ident(`${rollup.name}_pkey`)} primary key`,
    ...group.map((each, at) => `${ident(each)} ${groupTypes[at]}`),
    'day date',
    `${ident(count)} bigint not null default 0`,
    ...(distinct === undefined ? [] : [`${ident(distinct.name)} bigint not null default 0`]),
    ...countIf.map((each) => `${ident(each.name)} bigint not null default 0`),
    ...measures.flatMap((each) => [
      `${ident(each.sum)} numeric not null default 0`,
      `${ident(each.count)} bigint not null default 0`,
      // Without the digits that rows brought which are gone: the quotient has as many as its sum.
      `${ident(each.average)} numeric generated always as (case when ${ident(each.count)} <> 0 then trim_scale(${ident(each.sum)}) / ${ident(each.count)} end) stored`,
    ]),
    ...(median === undefined ? [] : [`${ident(median.name)} double precision`]),
    `constraint ${ident(`${rollup.name}_key`)} unique nulls not distinct (${keyColumns(rollup).join(', ')})`,
  ];
  const changeColumns = [
    ...groupTypes.map((type, at) => `group${at} ${type}`),
    ...contribution(rollup).map(({ name, type }) => `${name} ${type}`),
  ];
  const changes = innerName(rollup, 'changes');
  return [
    // Rows are updated again and again, each day's for a day: there is room beside them. Vacuumed often, or the index of days would have to look up each of its rows.
    `create table ${target} (${columns.join(', ')}) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02)`,
    `comment on table ${target} is ${literal(`Kept by liventix rollups, of ${rollup.of} by ${[...group, 'day'].join(', ')} (${rollup.zone}).`)}`,
    // With what is asked most of all groups of some days, so that their rows need not be read.
    `create index ${ident(`${rollup.name}_day`)} on ${target} (day) include (${[...group, count].map(ident).join(', ')})`,
    `create type ${innerName(rollup, 'key')} as (${keyed(rollup)
      .map((each, at) => `${each} ${groupTypes[at] ?? 'date'}`)
      .join(', ')})`,
    ...(distinct === undefined
      ? []
      : [
          `create table ${innerName(rollup, 'viewers')} (cell bigint not null, viewer text not null, views integer not null, change integer not null, primary key (cell, viewer)) with (fillfactor = 90)`,
        ]),
    ...(median === undefined
      ? []
      : [
          `create table ${innerName(rollup, 'buckets')} (cell bigint not null, bucket integer not null, weight bigint not null, primary key (cell, bucket)) with (fillfactor = 90)`,
        ]),
    `create table ${changes} (id bigint generated always as identity primary key, recorded_xid xid8, changed_xid xid8 not null, happened_at timestamptz, ${changeColumns.join(', ')})`,
    `create index on ${changes} (changed_xid)`,
    `create index on ${changes} (recorded_xid)`,
    triggerFunction(resolved),
    ...readableStatements(resolved),
    betweenFunction(resolved),
    ...rightsStatements(resolved),
  ];
}

/**
 * Runs as the owner: who changes a row of the source has no right here, and looks nothing up in what the caller has made. Nobody is refused for what an
 * expression of the file says of his row: it is told that the rollup is to be rebuilt. A block that writes nothing costs no transaction number.
 */
function triggerFunction(resolved: Resolved): string {
  const { rollup } = resolved;
  return `create function ${innerName(rollup, 'changed')}() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $changed$
#variable_conflict use_column
declare
  v_gone ${innerName(rollup, 'changes')};
begin
  begin
    select null, s.recorded_xid, pg_current_xact_id(), s.${ident(rollup.time)}, ${contributedOf(rollup)} into v_gone from (select old.*) s;
  exception when others then
    insert into rollups.marks (rollup, why)
    select ${literal(rollup.name)}, 'of a row that went nothing could be counted: ' || sqlerrm
    where not exists (select from rollups.marks m where m.rollup = ${literal(rollup.name)});
    return null;
  end;
  insert into ${innerName(rollup, 'changes')} (recorded_xid, changed_xid, happened_at, ${contributedColumns(rollup)})
  values (v_gone.recorded_xid, v_gone.changed_xid, v_gone.happened_at, ${contributedColumns(rollup, 'v_gone.')});
  return null;
end
$changed$`;
}

/** Under the lock of the source, from its present name. */
export function triggerStatements({ rollup }: Resolved, source: string, isFirst: boolean): readonly string[] {
  const [recorded, changed, emptied] = [TRIGGER.recorded, TRIGGER.changed(rollup), TRIGGER.emptied(rollup)].map(ident);
  return [
    ...(isFirst
      ? [
          // First without a default: rows that are there already are of before, and nothing is rewritten.
          `alter table ${source} add column recorded_xid xid8`,
          `alter table ${source} alter column recorded_xid set default pg_current_xact_id()`,
          `create trigger ${recorded} before update on ${source} for each row execute function rollups.record_update()`,
          `alter table ${source} enable always trigger ${recorded}`,
        ]
      : []),
    `create trigger ${changed} after update or delete on ${source} for each row execute function ${innerName(rollup, 'changed')}()`,
    `alter table ${source} enable always trigger ${changed}`,
    `create trigger ${emptied} after truncate on ${source} for each statement execute function rollups.note_truncate(${literal(rollup.name)})`,
    `alter table ${source} enable always trigger ${emptied}`,
  ];
}

/**
 * Puts back what counts, of which something was dropped or disabled, and says that the rollup is to be rebuilt: who knows what came meanwhile. So is every
 * rollup of the source, those of other files too, where it was something that they share.
 */
export function mendStatements(
  resolved: Resolved,
  source: string,
  missing: readonly MissingGuard[],
): readonly string[] {
  const { rollup } = resolved;
  const [, ...first] = triggerStatements(resolved, source, true);
  const whose = missing.some(({ loses }) => loses === 'of every rollup of the source')
    ? `rollups.of_source(${literal(source)}) r`
    : `rollups.get(${literal(rollup.name)}) r`;
  return [
    ...[TRIGGER.recorded, TRIGGER.changed(rollup), TRIGGER.emptied(rollup)].map(
      (trigger) => `drop trigger if exists ${ident(trigger)} on ${source}`,
    ),
    ...first,
    `insert into rollups.marks (rollup, why) select r.name, 'what counts was not there' from ${whose}`,
  ];
}

export function dropStatements(rollup: Rollup, source: string | null, isLast: boolean): readonly string[] {
  return [
    ...(source === null
      ? []
      : [
          `drop trigger if exists ${ident(TRIGGER.changed(rollup))} on ${source}`,
          `drop trigger if exists ${ident(TRIGGER.emptied(rollup))} on ${source}`,
          ...(isLast
            ? [
                `drop trigger if exists ${ident(TRIGGER.recorded)} on ${source}`,
                `alter table ${source} drop column if exists recorded_xid`,
              ]
            : []),
        ]),
    `drop function if exists ${betweenName(rollup)}`,
    `drop table if exists ${targetOf(rollup)}`,
    ...rollup.readers.some.map((_, at) => `drop function if exists ${readableName(rollup, at)}()`),
    `drop function if exists ${innerName(rollup, 'changed')}()`,
    `drop table if exists ${['viewers', 'buckets', 'changes'].map((what) => innerName(rollup, what)).join(', ')}`,
    `drop type if exists ${innerName(rollup, 'key')}`,
  ];
}

const readableName = (rollup: Rollup, at: number): string => innerName(rollup, `readable${at === 0 ? '' : at}`);

/** Once a statement, as the owner: a policy that asked the tables as the caller would be subject to theirs, row by row. */
export const readableStatements = ({ rollup, readSome, groupTypes }: Resolved): readonly string[] =>
  readSome.map(
    ({ column, among }, at) =>
      `create function ${readableName(rollup, at)}() returns setof ${groupTypes[rollup.group.indexOf(column)]}
language sql stable security definer set search_path = pg_catalog, pg_temp as $readable$
${among}
$readable$`,
  );

function rightsStatements(resolved: Resolved): readonly string[] {
  const { rollup, readAll, readSome } = resolved;
  const target = targetOf(rollup);
  const grant = (roles: readonly string[]) => {
    if (roles.length === 0) return [];
    const to = roles.map(ident).join(', ');
    return [`grant select on ${target} to ${to}`, `grant execute on function ${betweenName(rollup)} to ${to}`];
  };
  const inner = ['viewers', 'buckets', 'changes'].map((what) => innerName(rollup, what));
  const kept = inner.filter(
    (_, at) => (at !== 0 || rollup.distinct !== undefined) && (at !== 1 || rollup.median !== undefined),
  );
  return [
    ...[target, ...kept].map(revokeEverything),
    `revoke all on function ${innerName(rollup, 'changed')}() from public`,
    `revoke all on function ${betweenName(rollup)} from public`,
    `alter table ${target} enable row level security`,
    ...readAll.map(
      (role) => `create policy ${ident(`${role}_reads`)} on ${target} for select to ${ident(role)} using (true)`,
    ),
    ...grant(readAll),
    ...readSome.flatMap(({ roles, column }, at) => [
      `revoke all on function ${readableName(rollup, at)}() from public`,
      ...(roles.length === 0
        ? []
        : [
            `grant execute on function ${readableName(rollup, at)}() to ${roles.map(ident).join(', ')}`,
            `create policy ${ident(`readers${at === 0 ? '' : at}_${column}`)} on ${target} for select to ${roles.map(ident).join(', ')} using (${ident(column)} in (select ${readableName(rollup, at)}()))`,
          ]),
      ...grant(roles),
    ]),
  ];
}

/** Default privileges of a schema may have given away what is not for everybody: of a relation, and of the sequence that numbers it. */
const revokeEverything = (relation: string): string => `do $revoke$
declare
  v_grant record;
begin
  for v_grant in
    select distinct case c.relkind when 'S' then 'sequence ' else '' end || c.oid::regclass as relation,
      case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee
    from pg_class c, aclexplode(c.relacl) a
    where a.grantee <> c.relowner and (c.oid = ${literal(relation)}::regclass or c.oid in (
      select d.objid from pg_depend d
      where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = ${literal(relation)}::regclass and d.deptype = 'i'))
  loop
    execute format('revoke all on %s from %s', v_grant.relation, v_grant.grantee);
  end loop;
end
$revoke$`;

const betweenName = (rollup: Rollup): string =>
  `${targetOf({ schema: rollup.schema, name: `${rollup.name}_between` })}`;

/** Who calls, in a function that runs as its owner. */
const CALLER = `coalesce(nullif(current_setting('role', true), 'none'), session_user)`;

/** A range of days of some of the first group column's values, read as policies of the table have it. Distinct values are counted once however many days they are of. */
function betweenFunction(resolved: Resolved): string {
  const { rollup, groupTypes, readAll, readSome } = resolved;
  const { group, count, distinct, countIf, measures, median } = rollup;
  const [first = '', type = ''] = [group[0], groupTypes[0]];
  const parameter = ident(`p_${first}`);
  const ofCaller = (role: string) => `pg_has_role(${CALLER}, ${literal(role)}, 'usage')`;
  const mayRead = [
    `pg_has_role(${CALLER}, current_user, 'usage')`,
    ...readAll.map(ofCaller),
    ...readSome.flatMap(({ roles, column }, at) =>
      roles.map((role) => `${ofCaller(role)} and t.${ident(column)} in (select ${readableName(rollup, at)}())`),
    ),
  ];
  const columns: readonly (readonly [string, string, string])[] = [
    [first, type, `c.${ident(first)}`],
    [count, 'bigint', `sum(c.${ident(count)})::bigint`],
    ...(distinct === undefined
      ? []
      : [
          [
            distinct.name,
            'bigint',
            `(select count(distinct v.viewer) from ${innerName(rollup, 'viewers')} v where v.cell = any (array_agg(c.cell)) and v.views > 0)`,
          ] as const,
        ]),
    ...countIf.map((each) => [each.name, 'bigint', `sum(c.${ident(each.name)})::bigint`] as const),
    ...measures.flatMap(
      (each) =>
        [
          [each.sum, 'numeric', `sum(c.${ident(each.sum)})`],
          [each.average, 'numeric', `trim_scale(sum(c.${ident(each.sum)})) / nullif(sum(c.${ident(each.count)}), 0)`],
        ] as const,
    ),
    ...(median === undefined
      ? []
      : [
          [
            median.name,
            'double precision',
            `(select m.median from (${mediansOf(`select 0 as key, b.bucket, sum(b.weight) as weight from ${innerName(rollup, 'buckets')} b where b.cell = any (array_agg(c.cell)) and b.weight > 0 group by b.bucket`)}) m)`,
          ] as const,
        ]),
  ];
  return `create function ${betweenName(rollup)}(${parameter} ${type}[], p_from date, p_to date)
returns table (${columns.map(([name, of]) => `${ident(name)} ${of}`).join(', ')})
language sql stable security definer set search_path = pg_catalog, pg_temp as $between$
  select ${columns.map(([, , of]) => of).join(',\n    ')}
  from (
    select * from ${targetOf(rollup)} t
    where t.${ident(first)} = any (${parameter}) and t.day between p_from and p_to
      and (${mayRead.map((each) => `(${each})`).join(' or ')})
  ) c
  group by c.${ident(first)}
$between$`;
}

export function viewStatements(view: RefreshedView, query: string, readers: readonly string[]): readonly string[] {
  const target = targetOf(view);
  return [
    `create materialized view ${target} as ${query} with no data`,
    `create unique index ${ident(`${view.name}_key`)} on ${target} (${view.unique.map(ident).join(', ')})`,
    // It knows no policies, so that nobody reads it but whom nobody keeps rows from.
    revokeEverything(target),
    ...(readers.length === 0 ? [] : [`grant select on ${target} to ${readers.map(ident).join(', ')}`]),
  ];
}
