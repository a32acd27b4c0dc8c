import pg from 'pg';
import type { Queryable } from '../../db/pool.ts';
import { qualified, type Step } from '../statements.ts';
import { roleName } from './access.ts';
import type { PolicyCall } from './declaration.ts';
import type { Member } from './ground.ts';
import { nameFor } from './names.ts';
import { POLICIES } from './policies.ts';

const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

/** A function that is called for every row, and what asks the same once: `$1` is its first argument. */
export interface AskedOnce {
  /** As the server writes its name: `public.is_event_manager`. */
  readonly name: string;
  readonly arguments: number;
  readonly becomes: string;
}

interface OldPolicy {
  readonly schema: string;
  readonly table: string;
  readonly owner: string;
  readonly name: string;
  readonly isPermissive: boolean;
  readonly command: string;
  readonly roles: readonly string[];
  readonly using: string | null;
  readonly check: string | null;
  readonly comment: string | null;
  /** Functions of no argument, which answer the same all through a statement. */
  readonly constants: readonly string[];
}

/** Those calls of a mapping that policies of these tables make; of a name that is several functions', none. */
export async function callsInUse(
  db: Queryable,
  calls: readonly PolicyCall[],
  tables: readonly number[],
): Promise<readonly (PolicyCall & AskedOnce)[]> {
  const { rows } = await db.query<{ call: string; name: string; arguments: number }>(
    `select call, format('%I.%I', n.nspname, f.proname) as name, f.pronargs::int as arguments
     from unnest($1::text[]) call join pg_proc f on f.oid = to_regprocedure(call) join pg_namespace n on n.oid = f.pronamespace
     where exists (
         select from pg_policy p join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = p.oid
         where p.polrelid = any ($2::oid[]) and d.refclassid = 'pg_proc'::regclass and d.refobjid = f.oid)
       and not exists (
         select from pg_proc other where other.pronamespace = f.pronamespace and other.proname = f.proname and other.oid <> f.oid)`,
    [calls.map(({ call }) => call), tables],
  );
  return calls.flatMap((each) => {
    const found = rows.find(({ call }) => call === each.call);
    return found === undefined ? [] : [{ ...each, ...found }];
  });
}

/**
 * The old policies of a table and its partitions, saying what they said, with what does not depend on the row asked once a statement. Each is
 * another under its name. What it was stays, to the letter, for the owner alone, whom policies do not concern: written anew, it would not be
 * what it was to whoever compares.
 * @param db a transaction in which the server writes names with their schemas
 * @returns null where they ask nothing for every row
 */
export async function oldPoliciesStep(
  db: Queryable,
  members: readonly Member[],
  calls: readonly AskedOnce[],
): Promise<Step | null> {
  const { rows } = await db.query<OldPolicy>(OLD_POLICIES, [members.map(({ oid }) => oid), POLICIES]);
  const parts = rows.flatMap((policy) => {
    const [using, check] = [policy.using, policy.check].map((said) =>
      said === null ? null : askedOnce(said, policy.constants, calls),
    );
    const isSame = using === policy.using && check === policy.check;
    return isSame ? [] : [inPlaceOf(policy, { using: using ?? null, check: check ?? null })];
  });
  if (parts.length === 0) return null;
  return {
    statements: parts.flatMap(({ statements }) => statements),
    inverse: parts.toReversed().flatMap(({ inverse }) => inverse),
    mayChange: ['policy.oid', 'policy.using', 'policy.check', '+policy'],
  };
}

function inPlaceOf(policy: OldPolicy, { using, check }: { using: string | null; check: string | null }) {
  const on = qualified(policy.schema, policy.table);
  const [name, former] = [ident(policy.name), ident(nameFor('per_row', policy.name))];
  const roles = policy.roles.map(roleName).join(', ');
  const clauses = [
    `create policy ${name} on ${on} as ${policy.isPermissive ? 'permissive' : 'restrictive'} for ${policy.command} to ${roles}`,
    ...(using === null ? [] : [`using (${using})`]),
    ...(check === null ? [] : [`with check (${check})`]),
  ];
  return {
    statements: [
      `alter policy ${name} on ${on} rename to ${former}`,
      `alter policy ${former} on ${on} to ${ident(policy.owner)}`,
      clauses.join(' '),
      ...(policy.comment === null ? [] : [`comment on policy ${name} on ${on} is ${literal(policy.comment)}`]),
    ],
    inverse: [
      `drop policy if exists ${name} on ${on}`,
      `alter policy ${former} on ${on} to ${roles}`,
      `alter policy ${former} on ${on} rename to ${name}`,
    ],
  };
}

const OLD_POLICIES = `
  select n.nspname as schema, c.relname as "table", pg_get_userbyid(c.relowner) as owner, p.polname as name, p.polpermissive as "isPermissive",
    case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end as command,
    array(select case r when 0 then 'public' else pg_get_userbyid(r) end::text from unnest(p.polroles) r) as roles,
    pg_get_expr(p.polqual, p.polrelid) as using, pg_get_expr(p.polwithcheck, p.polrelid) as "check",
    obj_description(p.oid, 'pg_policy') as comment,
    array(
      select format('%I.%I', fn.nspname, f.proname)
      from pg_depend d join pg_proc f on f.oid = d.refobjid join pg_namespace fn on fn.oid = f.pronamespace
      where d.classid = 'pg_policy'::regclass and d.objid = p.oid and d.refclassid = 'pg_proc'::regclass
        and f.pronargs = 0 and f.provolatile <> 'v' and not f.proretset) as constants
  from pg_policy p join pg_class c on c.oid = p.polrelid join pg_namespace n on n.oid = c.relnamespace
  where p.polrelid = any ($1::oid[]) and p.polname <> all ($2)
  order by 1, 2, p.polname`;

/**
 * An expression, as the server writes it, with calls of `constants` wrapped in subqueries, which do not depend on the row and are therefore
 * run once, and those of `calls` replaced by what they become.
 */
export function askedOnce(expression: string, constants: readonly string[], calls: readonly AskedOnce[]): string {
  const wrapped = constants.reduce(
    (said, name) =>
      replaceCalls(said, name, (_, { before }) => (/select $/iu.test(before) ? undefined : `(select ${name}())`)),
    expression,
  );
  if (LOOKS_AT_ANSWERS.test(masked(wrapped, true))) return wrapped;
  return calls.reduce(
    (said, { name, arguments: count, becomes }) =>
      replaceCalls(said, name, (given, { before, after }) =>
        given.length === count && IS_A_CONDITION.before.test(before) && IS_A_CONDITION.after.test(after)
          ? `(${becomes.replace(/\$(\d)/gu, (_, nth) => given[Number(nth) - 1] ?? '')})`
          : undefined,
      ),
    wrapped,
  );
}

/**
 * Of an empty value, a function may say no where a comparison says nothing: to a policy that is the same, but not to what looks at the
 * answer itself.
 */
const LOOKS_AT_ANSWERS = /\bnot \(|\bcase\b|\bcoalesce\(/iu;
const IS_A_CONDITION = { before: /(?:^|(?:^|[\s(])\(|\band|\bor|\bwhere)\s*$/iu, after: /^\s*(?:$|\)|and\b|or\b)/iu };

type Replacing = (
  given: readonly string[],
  around: { readonly before: string; readonly after: string },
) => string | undefined;

/** Every call of a function, replaced by what is made of its arguments; left alone where that is undefined. */
function replaceCalls(expression: string, name: string, replacing: Replacing): string {
  const [text, code] = [masked(expression, false), masked(expression, true)];
  let [result, copied] = ['', 0];
  for (let at = text.indexOf(`${name}(`); at >= 0; at = text.indexOf(`${name}(`, at + 1)) {
    const start = at + name.length + 1;
    if (at < copied || code[start - 1] !== '(' || /[\w$."]/u.test(text[at - 1] ?? '')) continue;
    const { given, end } = argumentsAt(expression, code, start);
    const replaced = replacing(given, { before: expression.slice(0, at), after: expression.slice(end) });
    if (replaced === undefined) continue;
    result += expression.slice(copied, at) + replaced;
    copied = end;
  }
  return result + expression.slice(copied);
}

/** What stands between the commas of a call, from behind its parenthesis on, and where it ends. */
function argumentsAt(expression: string, code: string, start: number): { given: readonly string[]; end: number } {
  const given: string[] = [];
  let [depth, from] = [1, start];
  for (let at = start; at < code.length; at += 1) {
    const character = code[at] ?? '';
    if ('(['.includes(character)) depth += 1;
    if (')]'.includes(character)) depth -= 1;
    if (depth > 0 && !(depth === 1 && character === ',')) continue;
    const argument = expression.slice(from, at).trim();
    if (argument !== '' || depth > 0) given.push(argument);
    from = at + 1;
    if (depth === 0) return { given, end: at + 1 };
  }
  throw new Error(`a call without an end: ${expression}`);
}

/** The same, character for character, with nothing in its strings, and nothing in its quoted names. */
const masked = (expression: string, namesToo: boolean): string =>
  expression.replace(/'(?:[^']|'')*'|"(?:[^"]|"")*"/gu, (quoted) =>
    quoted.startsWith("'") || namesToo ? ' '.repeat(quoted.length) : quoted,
  );
