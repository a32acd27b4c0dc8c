import type { Queryable } from '../db/pool.ts';
import type { StoredText } from './catalog.ts';

/** A function that only triggers call, and that goes where all its tables go. */
export interface TriggerFunction {
  /** As the server writes it without a search_path: `public.touch()`. */
  readonly function: string;
  readonly name: string;
  readonly target: string;
  /** The tables whose triggers call it, by their bare names. */
  readonly tables: readonly string[];
}

interface Found {
  readonly function: string;
  readonly name: string;
  readonly tables: readonly { readonly schema: string; readonly table: string }[];
}

/**
 * The trigger functions of a schema whose tables all go to one other, and that no text names: triggers are bound to them by oid, so that
 * nobody notices.
 */
export async function findTriggerFunctions(
  db: Queryable,
  about: { from: string; targets: ReadonlyMap<string, string>; texts: readonly StoredText[] },
): Promise<readonly TriggerFunction[]> {
  const { rows } = await db.query<Found>(
    `select f.oid::regprocedure::text as function, f.proname as name,
       array(
         select distinct jsonb_build_object('schema', tn.nspname, 'table', c.relname)
         from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace tn on tn.oid = c.relnamespace
         where t.tgfoid = f.oid
       ) as tables
     from pg_proc f join pg_namespace n on n.oid = f.pronamespace
     where n.nspname = $1 and f.prorettype = 'trigger'::regtype and pg_has_role(f.proowner, 'usage')
       and not exists (
         select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = f.oid
           and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e')
     order by 1`,
    [about.from],
  );
  return rows.flatMap((found) => {
    const targets = new Set(
      found.tables.map(({ schema, table }) => (schema === about.from ? about.targets.get(table) : undefined)),
    );
    const [target] = targets;
    if (target === undefined || targets.size > 1 || isNamed(found, about.texts)) return [];
    return [{ function: found.function, name: found.name, target, tables: found.tables.map(({ table }) => table) }];
  });
}

function isNamed({ function: itself, name }: Found, texts: readonly StoredText[]): boolean {
  return texts.some(({ where, text }) => where !== `function ${itself}` && text.includes(name));
}
