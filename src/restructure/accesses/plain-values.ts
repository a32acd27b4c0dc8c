const INSTANT = '2026-01-15T12:00:00Z';

/** A value of a type, where no row says what a column of it may hold. */
export function plainValue(type: string): unknown {
  if (type.endsWith('[]')) return [];
  const [kind = ''] = type.split(/[ (]/u);
  switch (kind) {
    case 'uuid':
      return '00000000-0000-4000-8000-000000000000';
    case 'integer':
    case 'bigint':
    case 'smallint':
    case 'numeric':
    case 'real':
    case 'double':
      return 10;
    case 'boolean':
      return true;
    case 'json':
    case 'jsonb':
      return {};
    case 'date':
      return INSTANT.slice(0, 10);
    case 'timestamp':
      return INSTANT;
    case 'inet':
      return '192.0.2.1';
    case 'text':
    case 'character':
    case 'citext':
      return 'a';
    default:
      return null;
  }
}

/** A day or an instant at the one end of a span or at the other, by what an argument is called. */
export const endOfSpan = (name: string): string | undefined =>
  /(?:^|_)(?:from|start)(?:_|$)/u.test(name)
    ? '2020-01-01'
    : /(?:^|_)(?:to|end)(?:_|$)/u.test(name)
      ? '2030-01-01'
      : undefined;
