import type { Queryable } from '../../db/pool.ts';
import { type Condition, conditionText } from './condition.ts';

/** An attachment as it is now. */
export interface Attachment {
  readonly name: string;
  /** Under its present name; null where it was dropped. */
  readonly table: string | null;
  readonly when: string;
  readonly topic: string;
  readonly payload: readonly string[];
  readonly organizationColumn: string | null;
  readonly orderingKeyColumn: string | null;
  readonly withChange: boolean;
  /** Whether it announces: it does not where a trigger was dropped or disabled, on a partition too, or the table is gone. */
  readonly state: 'attached' | 'trigger_missing' | 'trigger_disabled' | 'table_gone';
  /** Columns that the table no longer has under the name that they were attached by: their values are left out. */
  readonly missingColumns: readonly string[];
  readonly createdAt: Date;
}

export async function listAttachments(db: Queryable): Promise<readonly Attachment[]> {
  const { rows } = await db.query<Row>(ATTACHMENTS);
  return rows.map(({ kind, column, from, to, ...row }) => ({
    when: conditionText(conditionOf(kind, column, from, to)),
    ...row,
  }));
}

/** In one line. */
export function attachmentText(attachment: Attachment): string {
  const { name, table, when, topic, payload, organizationColumn, orderingKeyColumn, withChange } = attachment;
  const further = [
    ...(organizationColumn === null ? [] : [`organization ${organizationColumn}`]),
    ...(orderingKeyColumn === null ? [] : [`ordering key ${orderingKeyColumn}`]),
    ...(withChange ? ['with the change'] : []),
  ];
  return [name, table ?? '(table gone)', when, topic, payload.join(','), ...further].join('  ');
}

interface Row extends Omit<Attachment, 'when'> {
  readonly kind: Condition['kind'];
  readonly column: string;
  readonly from: string[] | null;
  readonly to: string[] | null;
}

function conditionOf(kind: Condition['kind'], column: string, from: Row['from'], to: Row['to']): Condition {
  switch (kind) {
    case 'insert':
    case 'delete':
      return { kind };
    case 'change':
      return { kind, column, from, to };
    case 'becomes':
      return { kind, column, to };
  }
}

// A trigger of a partitioned table is one in each partition, and each can be disabled by itself.
const ATTACHMENTS = `
  select a.name, case when c.oid is not null then format('%I.%I', n.nspname, c.relname) end as table, a.kind, a.column_name as column, a.from_values as from, a.to_values as to,
         a.topic, a.payload_columns as payload, a.organization_column as "organizationColumn",
         a.ordering_key_column as "orderingKeyColumn", a.with_change as "withChange",
         case when c.oid is null then 'table_gone' when t.missing then 'trigger_missing' when t.disabled then 'trigger_disabled'
              else 'attached' end as state,
         array(
           select distinct named from unnest(a.payload_columns || array[a.column_name, a.organization_column, a.ordering_key_column]) named
           where c.oid is not null and named is not null and not exists (
             select from pg_attribute p where p.attrelid = c.oid and p.attname = named and p.attnum > 0 and not p.attisdropped)
           order by 1) as "missingColumns",
         a.created_at as "createdAt"
  from outbox.attachments a
  left join pg_class c on c.oid = a.relation
  left join pg_namespace n on n.oid = c.relnamespace
  cross join lateral (
    select bool_or(t.oid is null) as missing, bool_or(t.tgenabled not in ('O', 'A')) as disabled
    from (select a.relation::oid as oid union select relid from pg_partition_tree(a.relation)) r
    cross join unnest(outbox.attachment_operations(a.kind)) o
    left join pg_trigger t
      on t.tgrelid = r.oid and t.tgname = outbox.attachment_trigger(a.name, o) and t.tgfoid = 'outbox.announce_change'::regproc
  ) t
  order by 2, a.name`;
