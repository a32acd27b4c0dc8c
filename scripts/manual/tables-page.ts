import type { Queryable } from '../../src/db/pool.ts';
import { anchorOf, code, opening, page, table } from './markdown.ts';

const INTRO = [
  'What the migrations make. Triggers and policies are not here: which hold what is in [architecture](../architecture.md#invariants-and-where-each-is-held).',
  'Read what you like; write only through the [functions](sql-functions.md), save `public.outbox`, which is for inserting into. Everything of the log',
  'and of `outbox.attempts` is append-only.',
];

const SCHEMAS: Readonly<Record<string, string>> = {
  payments: 'The ledger: the log, its projections, periods and seals.',
  public: 'What the application announces.',
  outbox: 'Endpoints, deliveries and attempts.',
  replay: 'The backfill of legacy wallets, the capture and the mirror.',
  states: 'The state machines, what happened to each row, and what that booked.',
  ref: 'Reference data, which nobody but the owner writes.',
  restructure: 'The journal of moved tables.',
  partitions: 'Tables by month.',
  rollups: 'Statistics that are kept, and views that are refreshed.',
  ml: 'Embeddings: their models and vectors.',
  console: 'Who may look at the console, and what they did there.',
};

interface Column {
  readonly name: string;
  readonly type: string;
  readonly note: string;
  readonly comment: string | null;
}

interface Constraint {
  readonly name: string;
  readonly definition: string;
}

interface Relation {
  readonly schema: string;
  readonly name: string;
  readonly kind: 'r' | 'p' | 'v' | 'm';
  readonly partitionKey: string | null;
  readonly comment: string | null;
  readonly columns: readonly Column[];
  readonly constraints: readonly Constraint[];
}

/**
 * docs/reference/tables.md
 * @param db a migrated database
 */
export async function tablesPage(db: Queryable): Promise<string> {
  const relations = await readRelations(db);
  const chapters = Object.entries(SCHEMAS).flatMap(([schema, purpose]) => {
    const its = relations.filter((relation) => relation.schema === schema);
    const links = its.map(({ name }) => `[${code(name)}](#${anchorOf(`${schema}.${name}`)})`).join(', ');
    return [`## ${schema}`, '', `${purpose} ${links}`, '', ...its.flatMap(section)];
  });
  return page([...opening('Tables', INTRO), ...chapters]);
}

function section(relation: Relation): string[] {
  return [
    `### ${relation.schema}.${relation.name}`,
    '',
    ...(relation.comment === null ? [] : [relation.comment, '']),
    ...(relation.kind === 'p' ? [`Partitioned by \`${relation.partitionKey}\`.`, ''] : []),
    ...(relation.kind === 'v' ? ['A view.', ''] : []),
    ...table(['column', 'type', '', 'what it is'], relation.columns.map(columnRow)),
    ...table(
      ['constraint', 'what it holds'],
      relation.constraints.map(({ name, definition }) => [code(name), code(definition)]),
    ),
  ];
}

const columnRow = ({ name, type, note, comment }: Column): string[] => [code(name), type, note, comment ?? ''];

async function readRelations(db: Queryable): Promise<Relation[]> {
  const { rows } = await db.query<Relation>(
    `select n.nspname as schema, c.relname as name, c.relkind as kind, obj_description(c.oid, 'pg_class') as comment,
            case when c.relkind = 'p' then pg_get_partkeydef(c.oid) end as "partitionKey",
            (select json_agg(json_build_object(
               'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'comment', col_description(c.oid, a.attnum),
               'note', concat_ws('; ',
                 case when a.attnotnull then 'not null' end,
                 case when a.attidentity <> '' then 'identity' when a.attgenerated <> '' then 'generated'
                      when d.oid is not null then 'default ' || pg_get_expr(d.adbin, d.adrelid) end)
             ) order by a.attnum)
             from pg_attribute a
             left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns,
            -- Not null is said beside the column; PostgreSQL 18 has a constraint for it as well, older versions have none.
            coalesce((select json_agg(json_build_object('name', k.conname, 'definition', pg_get_constraintdef(k.oid)) order by k.contype, k.conname)
             from pg_constraint k
             where k.conrelid = c.oid and k.contype in ('p', 'u', 'c', 'f', 'x')), '[]') as constraints
     from pg_class c
     join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = any ($1) and c.relkind in ('r', 'p', 'v', 'm') and not c.relispartition
       and (n.nspname <> 'public' or c.relname = 'outbox')
     order by n.nspname, c.relname`,
    [Object.keys(SCHEMAS)],
  );
  return rows;
}
