import { z } from 'zod';

/**
 * Who a row of a table may be read or written by; each rule needs what is said of it in TenantTable. `guest`: whoever does not say that he
 * is another: the column of the user is empty, or names the caller.
 */
const RULES = ['anyone', 'organization', 'group', 'user', 'guest', 'owner', 'parent', 'nobody'] as const;
export type Rule = (typeof RULES)[number];

const KINDS = [
  'organization',
  'user',
  'organization_or_user',
  'event',
  'organization_and_sponsor',
  'sponsor',
  'participants',
  'global',
  'system',
] as const;
export type Kind = (typeof KINDS)[number];

/** What a kind allows, where the table has what the rule needs: of a rule that it does not have, nobody gets through. */
export const TEMPLATES: Readonly<Record<Kind, { readonly reads: readonly Rule[]; readonly writes: readonly Rule[] }>> =
  {
    organization: { reads: ['organization', 'owner'], writes: ['organization', 'owner'] },
    user: { reads: ['user', 'organization', 'owner', 'parent'], writes: ['user'] },
    organization_or_user: { reads: ['organization', 'user', 'parent'], writes: ['organization', 'user'] },
    event: { reads: ['organization', 'user', 'owner', 'parent'], writes: ['organization', 'user', 'owner'] },
    organization_and_sponsor: {
      reads: ['organization', 'group', 'user', 'owner'],
      writes: ['organization', 'group', 'user', 'owner'],
    },
    sponsor: { reads: ['group', 'user'], writes: ['group', 'user'] },
    participants: { reads: ['group', 'user', 'organization'], writes: ['user', 'organization'] },
    global: { reads: ['anyone'], writes: ['nobody'] },
    system: { reads: ['nobody'], writes: ['nobody'] },
  };

const column = z.string().min(1);

/** That a column has a value, or has another. */
const condition = z.union([z.strictObject({ column, is: z.string() }), z.strictObject({ column, isNot: z.string() })]);
export type Condition = z.infer<typeof condition>;

/** A column that counts where a condition is met: the organization of what an organization owns. */
const columnWhen = z.strictObject({ column, when: condition.optional() });
export type ColumnWhen = z.infer<typeof columnWhen>;

const columnOrWhen = z.union([column.transform((name): ColumnWhen => ({ column: name })), columnWhen]);

const owner = z.strictObject({ of: column, by: column, user: column.optional(), when: condition.optional() });
export type Owner = z.infer<typeof owner>;

const tenantTable = z.strictObject({
  table: column,
  kind: z.enum(KINDS),
  /** The column that says which organization a row belongs to, and the condition under which it does. */
  organization: z
    .union([
      columnWhen,
      /** Added, filled and kept from the row of another table: `by` is the column that refers to it. */
      z.strictObject({ of: column, by: column, notNull: z.boolean().default(false) }),
    ])
    .optional(),
  /** By the name of a membership, the column that says to which of its groups a row belongs. */
  groups: z.record(z.string(), column).default({}),
  /** The columns that name a user whose row it is, each of them under a condition or always. */
  user: z
    .union([columnOrWhen, z.array(columnOrWhen).min(1)])
    .transform((named) => [named].flat())
    .optional(),
  /**
   * It belongs to the user whom a row of another table names: `by` refers to that row, `user` is that table's column. Without `user`, it
   * belongs to the owner of that row.
   */
  owner: owner.optional(),
  /** Whoever may see a row of another table may see those that it refers to by `key`: its primary key, unless said otherwise. */
  parent: z.strictObject({ of: column, by: column, key: column.optional() }).optional(),
  /** A condition under which a row may be read by anyone. */
  open: condition.optional(),
  reads: z.array(z.enum(RULES)).optional(),
  writes: z.array(z.enum(RULES)).optional(),
  /** Who may insert, where that is not who may write: nobody makes by an update what he may not insert, but for `nobody`, who may insert nothing. */
  inserts: z.array(z.enum(RULES)).optional(),
  /**
   * What else a row has to have that is inserted: a parent that its writer sees, a row of another table that is his own, as an owner is
   * said, or the value that it begins with. Columns that say so are `fixed`, lest an update makes what no insert could.
   */
  needs: z.array(z.union([z.literal('parent'), owner, condition])).default([]),
  /** Columns that only writers change, whatever else of a row its user may. */
  fixed: z.array(column).default([]),
  /** Columns that only writers give to a row that is inserted: others leave them to their defaults. */
  defaulted: z.array(column).default([]),
  /**
   * Whether the table's owner does not pass either, nor what runs as the owner. Not for what others' rows are told by: those functions run as
   * the owner. To verify it then takes a role that row security does not concern.
   */
  force: z.boolean().default(false),
});

export type TenantTable = z.infer<typeof tenantTable>;

const membership = z.strictObject({
  /** The table of who belongs to what, with its columns. */
  table: column,
  user: columnOrWhen,
  group: column,
  /** The function that gives all groups of the caller, as an array. */
  function: column,
});

/** A function, and the lines of a `create or replace function` for it. */
export const replacement = z.strictObject({ function: z.string(), definition: z.array(z.string()).min(1) });
export type Replacement = z.infer<typeof replacement>;

const policyCall = z.strictObject({
  /** A function that old policies call for every row, with its argument types. */
  call: z.string(),
  /** A condition that holds wherever it says yes, and asks once a statement; `$1` is what it is given first. */
  becomes: z.string(),
  /** The function that the condition asks, and its definition: `create function`, in lines. */
  by: replacement.optional(),
});
export type PolicyCall = z.infer<typeof policyCall>;

export const tenancySchema = z.strictObject({
  /** SQL that gives the caller's id, of the type of the user columns, and the claims of his token as jsonb. */
  caller: z.string(),
  claims: z.string(),
  /** The setting by which a session is given those claims. */
  claimsSetting: z
    .string()
    .regex(/^\w+(\.\w+)+$/, 'is no setting of an application, such as request.jwt.claims')
    .default('request.jwt.claims'),
  /** The claim by which a caller says for which of his organizations he acts, and the function that gives it. */
  current: z.strictObject({ claim: column, function: column }),
  organizations: membership,
  /** What else a caller may belong to: sponsors, conversations. */
  memberships: z.array(membership.extend({ name: column, organization: columnOrWhen.optional() })).default([]),
  tables: z.array(tenantTable),
  /** What policies that were there before call for every row, and what they say instead. */
  policies: z.array(policyCall).default([]),
  views: z.strictObject({
    /** Views that show what their reader may see, not what their owner may. */
    invoker: z.array(column).default([]),
    /** Views that cannot, and that only writers read from now on. */
    closed: z.array(column).default([]),
    /** Views that say themselves what their reader may see: before anything else is asked of a row, by which it could be told. */
    barrier: z.array(column).default([]),
  }),
  functions: z.strictObject({
    invoker: z.array(column).default([]),
    /** Functions that call what is closed, on behalf of whoever may call them. */
    definer: z.array(column).default([]),
    closed: z.array(column).default([]),
    /** Functions that pass by every policy, and definitions that ask who calls. */
    replacements: z.array(replacement).default([]),
  }),
});

export type Tenancy = z.infer<typeof tenancySchema>;

/** Faults that no schema says: tables that are named twice, or rules that lack what they need. */
export function tenancyFaults({ tables, organizations, memberships }: Tenancy): readonly string[] {
  const names = tables.map(({ table }) => table);
  const asked = new Set([organizations, ...memberships].map(({ table }) => table).concat(tables.flatMap(askedOf)));
  return [
    ...names.filter((name, at) => names.indexOf(name) !== at).map((name) => `the tenancy of ${name} is said twice`),
    ...tables.flatMap((each) =>
      askedOf(each)
        .filter((of) => !names.includes(of))
        .map((of) => `${each.table} belongs to what ${of} belongs to, of which nothing is said`),
    ),
    ...tables.flatMap((each) =>
      [
        ...(each.reads ?? []),
        ...(each.writes ?? []),
        ...(each.inserts ?? []),
        ...(needsParent(each) ? ['parent' as const] : []),
      ]
        .filter((rule) => !has(each, rule))
        .map((rule) => `${each.table} has no ${rule}`),
    ),
    ...tables.flatMap(({ table, groups }) =>
      Object.keys(groups)
        .filter((name) => !memberships.some((each) => each.name === name))
        .map((name) => `${table} belongs to a ${name}, of which nothing is said`),
    ),
    ...tables
      .filter(({ owner }) => owner !== undefined && owner.user === undefined && !hasOwner(owner.of, tables))
      .map(({ table, owner }) => `${table} belongs to the owner of ${owner?.of}, of which no owner is said`),
    ...tables
      .filter((each) => ownersIn(each).some((one) => tables.flatMap(ownersIn).some((other) => isElsewhen(one, other))))
      .map(({ table }) => `the owner of ${table} is another one's under another condition`),
    ...tables
      .filter((each) => each.force && (isFilled(each) || asked.has(each.table)))
      .map(
        ({ table }) =>
          `${table} cannot force row security on its owner, as whom it is filled, or asked whose rows are whose`,
      ),
    ...cycles(tables).map((table) => `${table} would be seen by whoever sees what is seen by whoever sees it`),
  ];
}

const isFilled = ({ organization }: TenantTable): boolean => organization !== undefined && 'of' in organization;

const hasOwner = (name: string, tables: readonly TenantTable[]): boolean =>
  tables.some(({ table, owner }) => table === name && owner !== undefined);

function has(table: TenantTable, rule: Rule): boolean {
  if (rule === 'anyone' || rule === 'nobody') return true;
  if (rule === 'group') return Object.keys(table.groups).length > 0;
  return table[rule === 'guest' ? 'user' : rule] !== undefined;
}

/** The tables whose rows say whose the rows of this one are. */
const parentsOf = ({ parent, owner, organization }: TenantTable): readonly string[] => [
  ...(parent === undefined ? [] : [parent.of]),
  ...(owner === undefined ? [] : [owner.of]),
  ...(organization !== undefined && 'of' in organization ? [organization.of] : []),
];

export const needsParent = ({ needs }: TenantTable): boolean => needs.includes('parent');

/** Every way in which a table says that a row of another is the caller's own. */
export const ownersIn = ({ owner, needs }: TenantTable): readonly Owner[] => [
  ...(owner === undefined ? [] : [owner]),
  ...needs.filter((need) => typeof need === 'object' && 'of' in need),
];

/** By another condition, though by the same column: one function is asked of both. */
const isElsewhen = (one: Owner, other: Owner): boolean =>
  one.of === other.of && one.user === other.user && JSON.stringify(one.when) !== JSON.stringify(other.when);

const askedOf = (table: TenantTable): readonly string[] => [
  ...parentsOf(table),
  ...ownersIn(table).map(({ of }) => of),
];

/** Those from which one comes back to where one was, through what policies read. */
function cycles(tables: readonly TenantTable[]): readonly string[] {
  const byName = new Map(tables.map((each) => [each.table, each]));
  return tables
    .filter((start) => {
      const seen = new Set<string>();
      const waiting = [...parentsOf(start)];
      for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) {
        if (name === start.table) return true;
        if (seen.has(name)) continue;
        seen.add(name);
        const next = byName.get(name);
        if (next !== undefined) waiting.push(...parentsOf(next));
      }
      return false;
    })
    .map(({ table }) => table);
}

/** Tables in an order in which what a column is filled from comes first. */
export function inFillingOrder(tables: readonly TenantTable[]): readonly TenantTable[] {
  const byName = new Map(tables.map((each) => [each.table, each]));
  const ordered = new Set<TenantTable>();
  const add = (each: TenantTable): void => {
    if (ordered.has(each)) return;
    const { organization } = each;
    const source = organization !== undefined && 'of' in organization ? byName.get(organization.of) : undefined;
    if (source !== undefined) add(source);
    ordered.add(each);
  };
  for (const each of tables) add(each);
  return [...ordered];
}
