import type { FuncCall, Node, RangeVar } from 'libpg-query';

/** A node of a kind that is not known from where it stands. */
type Fields = Readonly<Record<string, unknown>>;

/** `schema.relation`. One without a schema is taken for one of `public`: files of changes rarely set a search path. */
export function nameOf(relation: RangeVar | undefined): string {
  return `${relation?.schemaname ?? 'public'}.${relation?.relname ?? ''}`;
}

/** The same of a name in parts, as DROP has them. */
export function nameOfParts(parts: readonly string[]): string {
  return parts.length > 1 ? parts.slice(-2).join('.') : `public.${parts[0] ?? ''}`;
}

/** The same of a name in a string, as `nextval` has it. */
export function nameOfText(text: string): string {
  return nameOfParts(text.split('.').map((part) => part.replace(/^"(.*)"$/, '$1')));
}

export function stringsOf(nodes: readonly Node[] | undefined): string[] {
  return (nodes ?? []).flatMap((node) => ('String' in node ? [node.String.sval ?? ''] : []));
}

/** A called function without its schema, where that is PostgreSQL's own. */
export function calledName({ funcname }: FuncCall): string {
  const parts = stringsOf(funcname);
  return (parts[0] === 'pg_catalog' ? parts.slice(1) : parts).join('.');
}

/**
 * Every object below a node and itself, in order, under the name that it stands by: without recursion, as expressions can be deep.
 * @param except what stands by this name is passed over, with all below it
 */
export function* below(root: unknown, except?: string): Generator<readonly [kind: string, fields: Fields]> {
  const open: [string, unknown][] = [['', root]];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const [kind, value] = next;
    if (value === null || typeof value !== 'object' || kind === except) continue;
    if (Array.isArray(value)) {
      for (let at = value.length - 1; at >= 0; at -= 1) open.push([kind, value[at]]);
      continue;
    }
    yield [kind, value as Fields];
    const keys = Object.keys(value);
    for (let at = keys.length - 1; at >= 0; at -= 1) {
      const key = keys[at] ?? '';
      const child = (value as Fields)[key];
      // Most of what is in a node is no node: every rule comes by here.
      if (typeof child === 'object') open.push([key, child]);
    }
  }
}

/** Every node of a kind below another. */
export function* kindBelow<T>(root: unknown, kind: string): Generator<T> {
  for (const [found, fields] of below(root)) if (found === kind) yield fields as T;
}

/** Every relation that is named below a node. */
export function* relationsBelow(root: unknown): Generator<RangeVar> {
  for (const [, fields] of below(root)) if (typeof fields['relname'] === 'string') yield fields as RangeVar;
}

/** A constant string, cast or not. */
export function constantText(node: Node | undefined): string | undefined {
  if (node === undefined) return undefined;
  if ('TypeCast' in node) return constantText(node.TypeCast.arg);
  return 'A_Const' in node ? node.A_Const.sval?.sval : undefined;
}
