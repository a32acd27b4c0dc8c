import { givingWay } from '../../db/giving-way.ts';
import { assertOnce, fillFrom, type Mending, NOT_BEFORE, nameOf, quoted } from './mending.ts';
import { ident, leavesOf, literal, qualified } from './names.ts';
import { againName, filledStatement, hasKey, sideTableStatements } from './side-tables.ts';

export interface PutBack {
  readonly faults: readonly string[];
  readonly written: number;
}

interface Missing {
  readonly name: string;
  readonly columns: readonly string[];
  readonly owner: string;
  /** As it is called by now, quoted, and where; null where it is gone. */
  readonly itself: string | null;
  readonly fault: string;
}

async function readMissing({ pool, kept }: Pick<Mending, 'pool' | 'kept'>): Promise<readonly Missing[]> {
  const { rows } = await pool.query<Missing>(
    `select k.side_table as name, k.columns::text[] as columns, pg_get_userbyid(t.relowner) as owner, u.fault,
       (select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = k.relation) as itself
     from partitions.keys k join partitions.unkept_keys(k.table_id) u on u.columns = k.columns join pg_class t on t.oid = u.relation
     cross join lateral to_regclass(format('%I.%I', $2::text, k.side_table)) s (side)
     where k.table_id = $1 and (s.side is null or k.relation <> s.side) order by k.columns`,
    [kept.id, kept.schema],
  );
  return rows;
}

/**
 * Tables of keys that somebody renamed, or moved, have their name again.
 * @returns those @throws AppError PARTITIONS_BUSY, STOPPED, DB_*
 */
export async function renameSideTablesBack(
  mending: Pick<Mending, 'pool' | 'kept' | 'locking'>,
): Promise<readonly Missing[]> {
  const { pool, kept, locking } = mending;
  const renamed = (await readMissing(mending)).filter(({ itself }) => itself !== null);
  for (const missing of renamed) {
    await givingWay(pool, { ...locking, code: 'PARTITIONS_BUSY' }, (tx) =>
      tx.query(`
        do $back$
        declare v_itself constant regclass := ${literal(missing.itself ?? '')};
        begin
          execute format('alter table %s rename to %I', v_itself, ${literal(missing.name)});
          if (select c.relnamespace from pg_class c where c.oid = v_itself) <> ${literal(ident(kept.schema))}::regnamespace then
            execute format('alter table %s set schema %I', v_itself, ${literal(kept.schema)});
          end if;
        end
        $back$`),
    );
  }
  return renamed;
}

/**
 * The same, and those that somebody dropped are there again when they have all keys: until then rows that are written are refused, and none comes of which a key is not
 * known.
 * @returns in words, what was the matter with each, by its name, and how many keys were written down
 * @throws AppError PARTITIONS_KEY_TWICE, PARTITIONS_BUSY, STOPPED, DB_*
 */
export async function putSideTablesBack(mending: Mending): Promise<ReadonlyMap<string, PutBack>> {
  const renamed = await renameSideTablesBack(mending);
  const gone = await readMissing(mending);
  // Keys that are there twice are named before anything else is done.
  if (gone.length > 0) await assertAllOnce(mending);
  const back = new Map<string, PutBack>(renamed.map(({ name, fault }) => [name, { faults: [fault], written: 0 }]));
  for (const missing of gone)
    back.set(missing.name, { faults: [missing.fault], written: await remakeSideTable(mending, missing) });
  return back;
}

async function assertAllOnce(mending: Mending): Promise<void> {
  const { rows } = await mending.pool.query<{ columns: readonly string[] }>(
    'select columns::text[] as columns from partitions.keys where table_id = $1 order by columns',
    [mending.kept.id],
  );
  for (const key of rows) await assertOnce(mending, key, NOT_BEFORE);
}

/** Filled under a name that no trigger knows. What a run left that was broken off goes first. */
async function remakeSideTable(mending: Mending, { name, columns, owner }: Missing): Promise<number> {
  const { pool, kept, locking, onStep } = mending;
  const again = { side: qualified(kept.schema, againName(name)), by: kept.by, columns };
  const giving = { ...locking, code: 'PARTITIONS_BUSY' } as const;
  await givingWay(pool, giving, (tx) =>
    tx.query(
      [
        `drop table if exists ${again.side}`,
        ...sideTableStatements(quoted(mending), { ...again, name, owner }),
        filledStatement(nameOf(mending), again),
      ].join(';\n'),
    ),
  );
  let written = 0;
  for (const leaf of await leavesOf(pool, quoted(mending)))
    written += await fillFrom(mending, again, { leaf, condition: hasKey(columns) });
  onStep(`naming ${name}`, 0, 0);
  await givingWay(pool, giving, (tx) =>
    tx.query(`
      alter table ${again.side} rename to ${ident(name)};
      update partitions.keys set relation = ${literal(qualified(kept.schema, name))}::regclass where table_id = ${kept.id} and side_table = ${literal(name)}`),
  );
  return written;
}
