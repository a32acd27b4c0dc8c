import type { DefElem, Node } from 'libpg-query';
import { stringsOf } from './ast.ts';

/** As PostgreSQL reads a boolean. */
const FALSE = /^(?:f|fa|fal|fals|false|of|off|n|no|0)$/i;

/** What options say of security_invoker; undefined where they do not name it. */
export function saysInvoker(options: readonly Node[]): boolean | undefined {
  const said = options
    .flatMap((each) => ('DefElem' in each ? each.DefElem : []))
    .findLast(({ defname }) => defname === 'security_invoker');
  return said === undefined ? undefined : !FALSE.test(textOf(said));
}

function textOf({ arg }: DefElem): string {
  if (arg === undefined) return 'true';
  if ('Integer' in arg) return String(arg.Integer.ival ?? 0);
  // A word without quotes is read as the name of a type.
  if ('TypeName' in arg) return stringsOf(arg.TypeName.names).at(-1) ?? '';
  return 'String' in arg ? (arg.String.sval ?? '') : '';
}
