import type { Queryable } from '../../db/pool.ts';

/** Longer values are hashes and lists of rights, which tell nobody anything. */
const SHORT = 24;

/** The server's expression for what is named by the key `key` of facts, of which one side is `fact`: `index orders_status`. */
const NAME = `case
  when split_part(key, ' ', 2) in ('reader', 'reference') then split_part(key, ' ', 2) || ' ' || coalesce(fact ->> 'name', split_part(key, ' ', 3))
  when split_part(key, ' ', 2) in ('parent', 'child') then split_part(key, ' ', 2) || ' ' || split_part(key, ' ', 3)::oid::regclass
  else substr(key, strpos(key, ' ') + 1) end`;

/**
 * What of relations that standing steps were done to is not any more what the last step on each left: one line an object. Migrations and
 * other commands change tables too, so that none of it is a fault of the steps. Partitions are made every month, and are left out.
 */
export async function readChangedSince(db: Queryable): Promise<readonly string[]> {
  const { rows } = await db.query<{ line: string }>(
    `with last as (
       select distinct on (r.oid) r.oid as relation, s.id, s.object, (
         select coalesce(jsonb_object_agg(f.key, f.value - 'file'), '{}') from jsonb_each(s.after) f
         where split_part(f.key, ' ', 1) = r.oid::text and split_part(f.key, ' ', 2) <> 'storage') as was
       from restructure.steps s cross join unnest(s.relations) r (oid)
       where s.undone_at is null
       order by r.oid, s.id desc
     ), compared as (
       select l.*, (
         select coalesce(jsonb_object_agg(f.key, f.value - 'file'), '{}') from jsonb_each(restructure.facts_of(array[l.relation])) f
         where split_part(f.key, ' ', 2) <> 'storage') as became
       from last l
     )
     select format('%s, since step %s: %s %s', c.object, c.id, (select ${NAME} from (select d.object as key, coalesce(c.became -> d.object, c.was -> d.object) as fact) f),
       case when not c.was ? d.object then 'was added' when not c.became ? d.object then 'is gone' else d.facts end) as line
     from compared c
     cross join lateral (
       select d.object, string_agg(case when length(d.was::text) <= ${SHORT} and length(d.became::text) <= ${SHORT}
         then format('%s was %s and is %s', d.fact, d.was, d.became) else d.fact || ' changed' end, ', ' order by d.fact) as facts
       from restructure.changes_between(c.was, c.became) d
       group by d.object
     ) d
     where not (split_part(d.object, ' ', 2) = 'child' and not c.was ? d.object)
     order by c.id, d.object`,
  );
  return rows.map(({ line }) => line);
}
